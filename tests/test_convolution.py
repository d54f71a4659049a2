from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from conftest import Vaecli
from test_export import needs_onnx
from vaecli import config as settings_of
from vaecli.config import Likelihood, ModelConfig
from vaecli.data.dataset import Images
from vaecli.errors import ExitCode
from vaecli.evaluation.evaluate import evaluate
from vaecli.export import html, onnx, parity, parts, pt2
from vaecli.model import layers as modules
from vaecli.model import operations
from vaecli.model.layers import ACTIVATIONS, Enlarge, Residual
from vaecli.model.network import Stage, stages
from vaecli.model.vae import VAE, build, with_weights
from vaecli.runs import directory, weights
from vaecli.system.typed_json import from_json, to_json
from vaecli.training import recipe

SMALL = ("--arch", "conv", "--hidden", "4", "--epochs", "1", "--batch-size", "8", "-q")


def conv(shape: tuple[int, int, int], **more: Any) -> ModelConfig:
    return ModelConfig(**{"image_shape": shape, "arch": "conv", "hidden": (4,), **more})


def lively(config: ModelConfig) -> VAE:
    """A model with residual branches that are no longer zero."""
    model = build(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@needs_onnx
@pytest.mark.timeout(300)  # the first use imports the exporter
def test_onnx_computes_what_the_model_does() -> None:
    model = lively(conv((3, 17, 40), latent_dim=3, likelihood="logistic", activation="silu"))
    for part in parts.split(model):
        assert parity.difference(part, onnx.load(onnx.encode(part))) < 1e-5


@pytest.mark.parametrize("likelihood", get_args(Likelihood))
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 19, 32)])
def test_a_score_is_the_same_alone_and_in_a_batch_of_100(
    likelihood: Likelihood, shape: tuple[int, int, int]
) -> None:
    model = lively(conv(shape, latent_dim=6, likelihood=likelihood, hidden=(8,)))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (100, *shape), generator=generator, dtype=torch.uint8)
    together = evaluate(model, Images(pixels), seed=0, batch_size=100)
    alone = evaluate(model, Images(pixels), seed=0, batch_size=1)
    torch.testing.assert_close(alone.losses, together.losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.rates, together.rates, rtol=1e-5, atol=1e-5)
    # whatever else is in the batch
    pixels[1:] = 255 - pixels[1:]
    other = evaluate(model, Images(pixels), seed=0, batch_size=100)
    torch.testing.assert_close(other.losses[0], together.losses[0], rtol=1e-5, atol=1e-5)
    assert (other.losses[1:] - together.losses[1:]).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("shape", "first", "expected"),
    [
        ((1, 16, 16), 32, [(32, 8, 8)]),
        ((1, 28, 28), 32, [(32, 14, 14), (64, 7, 7)]),
        ((3, 33, 16), 8, [(8, 17, 8), (16, 9, 4), (32, 5, 2)]),
        ((3, 128, 128), 32, [(32, 64, 64), (64, 32, 32), (128, 16, 16), (128, 8, 8)]),
    ],
)
def test_stages_halve_up_to_eight_and_double_up_to_four_times(
    shape: tuple[int, int, int], first: int, expected: list[tuple[int, int, int]]
) -> None:
    config = conv(shape, hidden=(first,))
    assert stages(config) == [Stage(*stage) for stage in expected]
    with torch.device("meta"):
        model = VAE(config)
    features: Tensor = torch.empty(2, *shape, device="meta")
    seen = set()
    for layer in model.encoder.hidden:
        features = layer(features)
        seen.add(tuple(features.shape[1:]))
    assert set(expected) <= seen
    assert model.decoder(torch.empty(2, 20, device="meta")).shape == (2, *shape)


def test_nearest_upsampling_repeats_each_position_for_every_size() -> None:
    for size in range(1, 200):
        half = -(-size // 2)
        row = torch.arange(float(half)).view(1, 1, 1, half)
        expected = row.repeat_interleave(2, 3)[..., :size]
        assert torch.equal(Enlarge(1, size)(row), expected)
        assert torch.equal(Enlarge(size, 1)(row.mT), expected.mT)


@pytest.mark.parametrize("size", [16, 20, 28, 31, (24, 64)])
def test_enlarging_and_convolving_together_is_the_same(size: int | tuple[int, int]) -> None:
    """Values and gradients in float64, against the layers one by one; odd sides are not doubled."""
    height, width = size if isinstance(size, tuple) else (size, size)
    config = ModelConfig(image_shape=(3, height, width), arch="conv", hidden=(8,))
    layers = lively(config).double().decoder.hidden
    assert isinstance(layers, modules.Expansion)
    assert any(layer.doubles(torch.empty(1, 1, *small)) for layer, small in enlargements(layers))
    latents = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = torch.linspace(-1, 1, layers(latents).numel(), dtype=torch.float64)
    gradients, values = [], []
    for run in (layers, nn.Sequential(*layers)):
        values.append(run(latents))
        total = (values[-1].flatten() * weight).sum()
        gradients.append(torch.autograd.grad(total, list(layers.parameters())))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def enlargements(layers: nn.Sequential) -> Iterator[tuple[Enlarge, tuple[int, ...]]]:
    """Each layer that enlarges, with the size it begins with."""
    unflatten = next(layer for layer in layers if isinstance(layer, nn.Unflatten))
    sizes: list[tuple[int, ...]] = [tuple(unflatten.unflattened_size)[1:]]
    for layer in layers:
        if isinstance(layer, Enlarge):
            yield layer, sizes[-1]
            sizes.append(layer.size)


def test_a_residual_block_adds_its_branch_which_starts_at_zero() -> None:
    block, features = Residual(operations.Residual(3, "relu")), torch.randn(2, 3, 5, 4)
    assert torch.equal(block(features), features)
    first, last = (layer for layer in block.branch if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        last.weight.normal_()
    inner = functional.conv2d(features.relu(), first.weight, first.bias, padding=1).relu()
    expected = features + functional.conv2d(inner, last.weight, padding=1)
    torch.testing.assert_close(block(features), expected)


def test_only_the_operations_that_a_page_can_run() -> None:
    model = build(conv((3, 40, 64)), seed=0)
    allowed = (nn.Linear, nn.Sequential, nn.Unflatten, *ACTIVATIONS.values())
    own = (Enlarge, Residual, modules.Output, modules.ChannelsLast)
    for module in [*model.decoder.hidden.modules(), *model.decoder.output.modules()]:
        if isinstance(module, nn.Conv2d):
            assert (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1))
            assert (module.dilation, module.groups) == ((1, 1), 1)
        else:
            assert isinstance(module, (*allowed, *own)), module
    # nothing that is counted over a batch
    assert list(model.buffers()) == []


def test_the_config_knows_what_conv_needs() -> None:
    assert conv((1, 28, 28), hidden=()).hidden == settings_of.HIDDEN["conv"] == (32,)
    assert ModelConfig(image_shape=(1, 28, 28)).hidden == (400,)
    assert from_json(ModelConfig, to_json(conv((1, 28, 28))), where="m") == conv((1, 28, 28))
    wrong = dict(conv((1, 15, 28), hidden=(4, 4)).problems())
    assert wrong.keys() == {"hidden", "arch"}
    assert "at least 16x16, not 15x28" in wrong["arch"]
    assert list(conv((3, 16, 16)).problems()) == []


def pictures(folder: Path, size: int, count: int = 12, mode: str = "RGB") -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        shape = (size, size, 3) if mode == "RGB" else (size, size)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")


def test_images_too_small_for_conv_are_refused(vaecli: Vaecli) -> None:
    pictures(Path("small"), 12)
    refused = vaecli("train", "-d", "small", *SMALL, "--data-dir", "cache")
    assert refused.code == ExitCode.DATA
    assert "conv needs images of at least 16x16, not 12x12" in refused.err
    assert "--arch mlp" in refused.err
    assert not Path("runs").exists()
    wrong = vaecli("train", "-d", "small", "--arch", "conv", "--hidden", "4,4")
    assert wrong.code == ExitCode.USAGE
    assert "--hidden must be one number with --arch conv" in wrong.err


def test_colour_gets_a_likelihood_that_is_said_and_recorded(vaecli: Vaecli) -> None:
    pictures(Path("colour"), 16)
    pictures(Path("grey"), 16, mode="L")
    fast = ("--hidden", "4", "--epochs", "1", "--data-dir", "cache")
    for arguments, chosen, said in (
        (("colour", "--arch", "conv"), "logistic-mixture", True),
        (("colour",), "logistic-mixture", True),
        (("colour", "--arch", "mlp"), "logistic", True),
        (("colour", "--likelihood", "bernoulli"), "bernoulli", False),
        (("colour", "--binarize", "dynamic"), "bernoulli", False),
        (("colour", "--channels", "1"), "bernoulli", False),
        (("grey",), "bernoulli", False),
    ):
        outcome = vaecli("train", *fast, "-d", *arguments)
        assert outcome.code == 0, outcome.err
        assert ("taking --likelihood logistic" in outcome.err) == said, arguments
        path = Path(outcome.out.strip())
        assert directory.open_run(path).config.model.likelihood == chosen
        assert weights.read_model(path / "model.safetensors").config.likelihood == chosen


def test_each_architecture_has_its_recipe(vaecli: Vaecli) -> None:
    pictures(Path("grey"), 16, mode="L")
    pictures(Path("colour"), 16)
    first = ("train", "-d", "grey", "--epochs", "1", "--data-dir", "cache", "--hidden", "4")
    seven = ("--epochs", "7")
    for more, expected in (
        ((), {"lr": 6e-3, "batch_size": 128}),
        (("--arch", "conv"), recipe.RECIPES["conv"]),
        (("--arch", "conv", "--lr", "0.5"), {**recipe.RECIPES["conv"], "lr": 0.5}),
        (("--arch", "auto"), {"lr": 6e-3, "batch_size": 128}),
        (("-d", "colour", "--arch", "auto"), recipe.RECIPES["grid"]),
        (("--arch", "conv", *seven), {"warmup_epochs": 0}),
        (("-d", "colour", *seven), {"warmup_epochs": 7}),
        (("-d", "colour", *seven, "--likelihood", "logistic"), {"warmup_epochs": 0}),
        (("-d", "colour", *seven, "--warmup-epochs", "0"), {"warmup_epochs": 0}),
        (("-d", "colour", *seven, "--patience", "1"), {"warmup_epochs": 0}),
        (("-d", "colour", *seven, "--schedule", "constant"), {"warmup_epochs": 0}),
    ):
        outcome = vaecli(*first, *more, "--json", "--dry-run")
        assert outcome.code == 0, outcome.err
        found = json.loads(outcome.out)["training"]
        assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("shape", "latent_dim", "likelihood"),
    [
        ((1, 16, 16), 2, "bernoulli"),
        ((3, 16, 16), 256, "logistic"),
        ((3, 17, 31), 7, "gaussian"),
        ((1, 28, 28), 20, "logistic"),
        ((3, 32, 32), 64, "bernoulli"),
        ((1, 33, 16), 5, "continuous-bernoulli"),
        ((3, 64, 48), 32, "continuous-bernoulli"),
        pytest.param((1, 101, 128), 200, "gaussian", marks=pytest.mark.slow),
        pytest.param((3, 128, 128), 256, "logistic", marks=pytest.mark.slow),
    ],
)
def test_every_shape_trains_two_steps_exports_and_reloads(
    vaecli: Vaecli, shape: tuple[int, int, int], latent_dim: int, likelihood: Likelihood
) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        "images.npz",
        x_train=rng.integers(0, 256, (16, *shape), np.uint8),
        x_test=rng.integers(0, 256, (4, *shape), np.uint8),
    )
    more = ("--latent-dim", latent_dim, "--likelihood", likelihood, "--data-dir", "cache")
    trained = vaecli("train", "-d", "images.npz", *SMALL, *more, "-o", "run")
    assert trained.code == 0, trained.err
    model = with_weights(*weights.read_model(Path("run/model.safetensors")))
    border = model.config.border
    assert model.config == conv(
        shape, latent_dim=latent_dim, likelihood=likelihood, border=border, white_8=255
    )
    for part in parts.split(model):
        assert parity.difference(part, pt2.load(pt2.encode(part))) < 1e-5
    assert html.render(model, title="a").difference < 0.05
    judged = vaecli("eval", "-m", "run", "--json", "--data-dir", "cache")
    with open("run/metrics.csv") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(judged.out)["loss"] == pytest.approx(float(row["test_loss"]), rel=1e-6)
