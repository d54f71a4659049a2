from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from conftest import Vaecli
from vaecli import convolution, export, weights
from vaecli.config import HIDDEN, Activation, Likelihood, ModelConfig, from_json, to_json
from vaecli.data.dataset import Dataset, Images
from vaecli.errors import ExitCode
from vaecli.evaluation import evaluate
from vaecli.export import html, pt2
from vaecli.generation import score
from vaecli.loss import elbo_terms
from vaecli.model import VAE, build, count_parameters
from vaecli.noise import NormalNoise
from vaecli.training import initial_model
from vaecli.config import DataConfig, RunConfig, TrainConfig

SMALL = ("--arch", "conv", "--hidden", "4", "--epochs", "1", "--batch-size", "8", "-q")


def conv(shape: tuple[int, int, int], **settings: object) -> ModelConfig:
    values = {"arch": "conv", "image_shape": shape, "hidden": (4,), **settings}
    return ModelConfig(**values)  # type: ignore[arg-type]


def lively(model: VAE) -> VAE:
    """The model with residual branches that are no longer zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize(
    ("size", "latent_dim", "likelihood"),
    [
        ((16, 16), 2, "bernoulli"),
        ((17, 31), 7, "gaussian"),
        ((28, 28), 20, "bernoulli"),
        ((32, 32), 64, "logistic"),
        ((33, 16), 5, "continuous-bernoulli"),
        ((64, 48), 32, "logistic"),
        ((101, 128), 256, "gaussian"),
        ((128, 128), 256, "logistic"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_shape_trains_two_steps_exports_and_reloads(
    vaecli: Vaecli, channels: int, size: tuple[int, int], latent_dim: int, likelihood: Likelihood
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, *size, channels), np.uint8)
    np.save("images.npy", pixels)
    settings = ("--latent-dim", latent_dim, "--likelihood", likelihood)
    outcome = vaecli(
        "train", "-d", "images.npy", *SMALL, *settings, "-o", "run", "--data-dir", "cache"
    )
    assert outcome.code == 0, outcome.err
    model = weights.read_model(Path("run/model.safetensors"))
    assert model.config == conv(
        (channels, *size), latent_dim=latent_dim, likelihood=likelihood, border=model.config.border
    )
    rows = Path("run/metrics.csv").read_text().splitlines()
    assert len(rows) == 2
    assert "nan" not in rows[1]
    for part in export.split(model):
        found = export.difference(part, pt2.load(pt2.encode(part)))
        assert found < 1e-5
    assert html.render(model, title="a").difference < 0.05
    outcome = vaecli("eval", "-m", "run", "--json", "--data-dir", "cache")
    assert outcome.code == 0, outcome.err
