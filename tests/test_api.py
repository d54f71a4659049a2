from __future__ import annotations

import csv
import doctest
import importlib
import inspect
import json
import re
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import vaecli
from conftest import REPOSITORY, Vaecli
from test_layers import modules_after
from vaecli.api import coder, model, train
from vaecli.cli import commands, options
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ModelError, UsageError
from vaecli.export import formats
from vaecli.runs import hub
from vaecli.runs.load import load_model
from vaecli.system import extras
from vaecli.training import images_for_model
from vaecli.training.events import EpochEnd, Event, Finished, Started

MODULES = [coder, model, train]
PAGE = (REPOSITORY / "docs/api.md").read_text()


def test_importing_the_package_is_light() -> None:
    assert "torch" not in modules_after("import vaecli; vaecli.__version__")


def test_load_encode_decode_reconstruct_sample(trained: Path) -> None:
    model = vaecli.load(trained)
    assert (model.image_shape, model.latent_dim) == ((1, 28, 28), 8)
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    mean, log_variance = model.encode(images)
    assert mean.shape == log_variance.shape == (3, 8)
    as_floats = model.encode(images.numpy() / 255)[0]
    torch.testing.assert_close(mean, as_floats)
    decoded = model.decode(mean)
    assert decoded.shape == (3, 1, 28, 28)
    assert 0 <= float(decoded.min()) <= float(decoded.max()) <= 1
    torch.testing.assert_close(model.reconstruct(images), decoded)
    assert not torch.equal(model.reconstruct(images, sample=True), decoded)
    assert torch.equal(model.sample(2, seed=1), model.sample(2, seed=1))
    assert not torch.equal(model.sample(2, seed=1), model.sample(2, seed=2))
    alone = vaecli.load(trained / "model.safetensors")
    assert torch.equal(alone.decode(mean), decoded)


def test_wrong_input_is_named(trained: Path) -> None:
    model = vaecli.load(trained)
    for images in (np.zeros((28, 28)), np.zeros((1, 3, 28, 28)), np.full((1, 1, 28, 28), 2.0)):
        with pytest.raises(DataError, match="images"):
            model.encode(images)
    with pytest.raises(DataError, match="latents"):
        model.decode(np.zeros((1, 3)))
    with pytest.raises(UsageError, match="epoch: unknown setting"):
        next(vaecli.train("mnist", epoch=1))
    codes = model.encode(np.zeros((1, 1, 28, 28)))[0]
    torch.nn.Linear(8, 2)(codes).sum().backward()  # codes can be trained on
    with pytest.raises(ModelError, match="no model"):
        vaecli.load("nowhere")


def test_train_yields_events(tmp_path: Path, data_dir: Path) -> None:
    def events(latent_dim: int) -> list[Event]:
        return list(
            vaecli.train(
                "mnist",
                output=tmp_path / "run",
                data_dir=data_dir,
                epochs=1,
                hidden=(16,),
                latent_dim=latent_dim,
                patience=None,  # as if it were not given
            )
        )

    first = events(2)
    assert isinstance(first[0], Started)
    assert isinstance(first[-2], Finished)
    assert first[-2].path == tmp_path / "run"
    again = events(2)
    assert not any(isinstance(event, EpochEnd) for event in again)
    with pytest.raises(UsageError, match="latent_dim"):
        events(3)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_run(module: ModuleType) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed


def public(owner: Any, module: ModuleType) -> list[tuple[str, Any]]:
    found = [(name, value) for name, value in vars(owner).items() if name[0] != "_"]
    return [(n, v) for n, v in found if getattr(v, "__module__", None) == module.__name__]


def test_every_function_has_an_example() -> None:
    checked = []
    for module in MODULES:
        for name, value in public(module, module):
            methods = public(value, module) if inspect.isclass(value) else [(name, value)]
            for method, function in methods:
                assert ">>> " in (inspect.getdoc(function) or ""), method
                checked.append(method)
    assert {"load", "train", "evaluate", "score", "export", "encode"} <= set(checked)


def test_every_command_has_its_functions() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert list(rows) == list(commands._COMMANDS)
    for cells in rows.values():
        for name in re.findall(r"`([\w.]+)`", cells):
            rest = name.partition(".evaluation.")[2]
            root = importlib.import_module(
                f"vaecli.evaluation.{rest.split('.')[0]}" if rest else "vaecli"
            )
            steps = rest.split(".")[1:] if rest else name.split(".")[1:]
            assert callable(reduce(getattr, steps, root)), name


ELSEWHERE = {
    *("json", "quiet", "verbose", "debug", "no_progress", "config", "ctx", "threads"),
    *("model", "device"),  # of load
    *("no_download", "verify", "private"),  # download; tolerance=None; of push
    *("per_image", "plot", "seed", "output", "fail_on_alert"),
    *("embeddings", "neighbours", "clusters", "projection"),  # score(latents=True)
}
"""Options that are no argument of the method: of the command line, or by another name."""


@pytest.mark.parametrize(
    ("command", "methods"),
    [
        ("eval", [vaecli.Model.evaluate, vaecli.Model.score]),
        ("export", [vaecli.Model.export]),
    ],
)
def test_every_option_is_an_argument(command: str, methods: list[Any]) -> None:
    known = {name for method in methods for name in inspect.signature(method).parameters}
    function = options.grouped(
        getattr(
            importlib.import_module(f"vaecli.cli.{command}"),
            commands._COMMANDS[command],
        )
    )
    asked = set(inspect.signature(function).parameters) - ELSEWHERE
    if command == "eval":
        asked -= {"force"}  # no file is written
    assert asked <= known, asked - known


def test_evaluate_gives_what_the_command_prints(
    trained: Path, data_dir: Path, vaecli: Vaecli
) -> None:
    """Of the run's own data, of another split, of a set by name, and of the images themselves."""
    loaded = load(trained)
    for arguments, named in (
        ((), {}),
        (("--split", "train", "--limit", "70"), {"split": "train", "limit": 70}),
        (("--importance-samples", "20"), {"importance_samples": 20, "batch_size": 50}),
        (("--binarize", "dynamic", "--seed", "5"), {"binarize": "dynamic", "seed": 5}),
        (("--binarize", "static", "-d", "mnist"), {"binarize": "static", "data": "mnist"}),
    ):
        line = ("eval", "-m", trained, "--data-dir", data_dir, "--json", *arguments)
        told = json.loads(vaecli(*line).out)
        found = loaded.evaluate(data_dir=data_dir, download=False, **named)
        for name in ("n_images", "active_units"):
            assert told[name] == getattr(found, name), arguments
        for name in (
            "loss",
            "elbo",
            "distortion",
            "rate",
            *(["nll", "ess"] if "nll" in told else []),
        ):
            assert told[name] == pytest.approx(getattr(found, name), rel=1e-6), arguments
    pixels = own_images(trained, data_dir)
    by_name = loaded.evaluate(data_dir=data_dir)
    for images in (pixels, torch.from_numpy(pixels), pixels / 255, torch.from_numpy(pixels) / 255):
        assert torch.equal(loaded.evaluate(images).losses, by_name.losses)
    assert torch.equal(
        loaded.evaluate(pixels, binarize="static").losses,
        loaded.evaluate(data_dir=data_dir, binarize="static").losses,
    )


def test_score_gives_the_columns_of_the_command(
    trained: Path, data_dir: Path, vaecli: Vaecli
) -> None:
    line = ("eval", "-m", trained, "--data-dir", data_dir, "--importance-samples", "3")
    assert vaecli(*line, "--per-image", "scores.csv", "--latents").code == 0
    with open("scores.csv") as file:
        rows = list(csv.DictReader(file))
    told: list[tuple[str, int, int | None]] = []
    found = load(trained).score(
        latents=True,
        importance_samples=3,
        data_dir=data_dir,
        progress=lambda *state: told.append(state),
    )
    assert list(found) == list(rows[0])
    for name, column in found.items():
        values = [row[name] for row in rows]
        if name == "class":
            assert column.tolist() == values
        else:
            np.testing.assert_allclose(column, np.array(values, float), rtol=1e-6, atol=2e-6)
    assert ("loss", 130, 130) in told


def test_export_writes_what_the_command_writes(
    trained: Path, data_dir: Path, vaecli: Vaecli
) -> None:
    loaded = load(trained)
    exports: list[tuple[Any, dict[str, Any]]] = [
        ("html", {}),
        ("safetensors", {"half": True}),
        ("pt2", {"part": "decoder"}),
    ]
    for format, named in exports:
        mine, theirs = Path(f"mine.{format}"), Path(f"theirs.{format}")
        words = [word for name, value in named.items() for word in (f"--{name}", value)]
        line = ["export", "-m", trained, "--format", format, "-o", theirs, "--data-dir", data_dir]
        assert vaecli(*line, *[word for word in words if word is not True]).code == 0
        if format == "html":
            named["data_dir"] = data_dir
        (path,) = loaded.export(mine, format, **named)
        if format == "pt2":
            assert path == mine / "decoder.pt2"
            assert path.is_file()
        else:
            assert path.read_bytes() == theirs.read_bytes()
        before = path.stat().st_mtime_ns
        with pytest.raises(UsageError, match="it exists"):
            loaded.export(mine, format, **named)
        assert path.stat().st_mtime_ns == before
        loaded.export(mine, format, force=True, **named)
    with pytest.raises(UsageError, match="format hub"):
        loaded.export("x", "hub")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="half does not go"):
        loaded.export("x", "pt2", half=True)
    assert not Path("x").exists()
    assert formats.TOLERANCE == importlib.import_module("vaecli.cli.export").TOLERANCE


def test_push_uploads_the_run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """test_push.py shows what that does."""
    called: list[Any] = []
    monkeypatch.setattr(extras, "require", lambda *_: None)
    monkeypatch.setattr(hub, "push", lambda *given, **named: called.append((given, named)))
    load(trained).push("hf://someone/digits", private=True)
    (((run, address), named),) = called
    assert (run.path, address) == (trained, "hf://someone/digits")
    assert named == {"private": True, "replace": False}
    with pytest.raises(UsageError, match="not a run"):
        load("digits").push("hf://someone/digits")


def test_bad_questions_are_refused(trained: Path, data_dir: Path) -> None:
    loaded = load(trained)
    pixels = own_images(trained, data_dir)
    for match, data, named in (
        ("splits", pixels, {"split": "train"}),
        ("there are none", pixels[:0], {}),
        ("batch_size", pixels, {"batch_size": 0}),
        ("limit", pixels, {"limit": 0}),
        ("importance_samples", pixels, {"importance_samples": 0}),
        (r"images: \(1, 28, 28\)", pixels[0], {}),
        ("no such data set", "nowhere", {}),
    ):
        with pytest.raises((DataError, UsageError), match=match):
            loaded.evaluate(data, **named)
    with pytest.raises(UsageError, match="loose weights"):
        load(trained / "model.safetensors").evaluate()
    with pytest.raises(UsageError, match="does not say what data"):
        vaecli.Model(loaded.vae).score()


def test_warnings_are_python_s(data_dir: Path) -> None:
    """Of images changed since; `report` takes them in their place."""
    np.save("mine.npy", np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8))
    list(vaecli.train("mine.npy", output="run", epochs=1, hidden=(8,)))
    np.save("mine.npy", np.random.default_rng(1).integers(0, 256, (60, 8, 8), np.uint8))
    with pytest.warns(UserWarning, match="changed since"):
        load("run").evaluate()
    said: list[str] = []
    load("run").evaluate(report=said.append)
    assert any("changed since" in text for text in said)


def load(path: str | Path) -> vaecli.Model:
    return vaecli.load(path, device="cpu")


def own_images(run: Path, data_dir: Path) -> Any:
    loaded = load_model(str(run))
    choice = images_for_model.Choice()
    return images_for_model.load(loaded, choice, Reading(data_dir, False))[0].pixels
