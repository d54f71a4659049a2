from __future__ import annotations

import math
from typing import get_type_hints

import pytest

from vaecli.config import (
    ArchChoice,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from vaecli.data.origin import Options
from vaecli.system.strict_json import canonical_json, parse_json
from vaecli.system.typed_json import from_json, to_json
from vaecli.training.configuration import contradictions
from vaecli.training.settings import Settings

MODEL = ModelConfig(image_shape=(1, 28, 28))
RUN = RunConfig(
    model=MODEL,
    training=TrainConfig(),
    data=DataConfig(name="digits", fingerprint="0" * 64, n_train=10, n_test=2),
    environment={"torch": "2", "threads": 2},
)


def test_round_trip() -> None:
    text = canonical_json(RUN.to_json())
    assert RunConfig.from_json(parse_json(text.encode())) == RUN
    assert RUN.differences(RUN) == []


def test_defaults_are_the_classic_model() -> None:
    assert (MODEL.arch, MODEL.hidden, MODEL.latent_dim) == ("mlp", (400,), 20)
    assert (MODEL.activation, MODEL.likelihood) == ("relu", "bernoulli")
    assert not list(MODEL.problems())
    assert not list(TrainConfig().problems())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_shape", (2, 28, 28)),
        ("image_shape", (1, 28)),
        ("image_shape", (1, 0, 28)),
        ("image_shape", (3, 4096, 4096)),
        ("image_shape", "28"),
        ("hidden", (400, 0)),
        ("hidden", (10**9,)),
        ("hidden", (4,) * 17),
        ("hidden", (True,)),
        ("latent_dim", 0),
        ("latent_dim", True),
        ("latent_dim", 2.0),
        ("activation", "swish"),
        ("likelihood", None),
    ],
)
def test_a_bad_model_value_is_named(field: str, value: object) -> None:
    data = {**to_json(MODEL), field: list(value) if isinstance(value, tuple) else value}
    with pytest.raises(ValueError, match=field):
        from_json(ModelConfig, data, where="model")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("batch_size", -1),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("lr", "1e-3"),
        ("schedule", "step"),
        ("beta", -0.5),
        ("beta", math.inf),
        ("beta", math.nan),
        ("beta", True),
        ("warmup_epochs", -1),
        ("free_bits", -1.0),
        ("importance_samples", 0),
        ("binarize", True),
        ("seed", -1),
        ("seed", 2**63),
        ("limit", 0),
    ],
)
def test_a_bad_training_value_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        from_json(TrainConfig, {**to_json(TrainConfig()), field: value}, where="training")


def test_all_problems_are_reported_together() -> None:
    data = {**to_json(TrainConfig()), "epochs": 0, "lr": -1, "seed": -1}
    with pytest.raises(ValueError, match=r"epochs.*seed.*lr"):
        from_json(TrainConfig, data, where="training")


def test_contradictions_are_named() -> None:
    mixed = {**to_json(TrainConfig()), "free_bits": 0.5, "importance_samples": 5}
    with pytest.raises(ValueError, match=r"free_bits: contradicts --importance-samples"):
        from_json(TrainConfig, mixed, where="training")
    logistic = ModelConfig(image_shape=(1, 28, 28), likelihood="logistic")
    assert [field for field, _ in contradictions(logistic, "dynamic")] == ["binarize"]
    assert not list(contradictions(logistic, "none"))
    assert not list(contradictions(MODEL, "static"))


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"model\.latents: unknown key.*image_shape: missing"):
        from_json(ModelConfig, {"latents": 3}, where="model")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"{",
        b'{"a": 1, "a": 2}',
        b"[NaN]",
        b"[Infinity]",
        b"[1e999]",
        b"[" * 100_000,
        b"[" * 33 + b"]" * 33,
        b"[" + b"1" * 5000 + b"]",
        b'\xef\xbb\xbf{"a": 1}',
    ],
)
def test_hostile_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_each_setting_is_a_field_of_a_configuration() -> None:
    """Of the same type; and whatever TrainConfig has can be asked for."""
    configured = {
        name: hint
        for kind in (ModelConfig, TrainConfig, Options)
        for name, hint in get_type_hints(kind).items()
    }
    asked = get_type_hints(Settings)
    configured["arch"] = ArchChoice  # which may be left to the images
    assert asked == {name: configured[name] | None for name in asked}
    assert get_type_hints(TrainConfig).keys() - asked.keys() == {"init_from"}
    assert get_type_hints(Options).keys() <= asked.keys()
