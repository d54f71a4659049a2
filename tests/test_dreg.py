"""The doubly reparameterized gradient against brute force: the bound's own, over many draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vaecli.config import Gradient, LearnedPrior, ModelConfig, TrainConfig
from vaecli.model.vae import VAE, build
from vaecli.training.configuration import training
from vaecli.training.objective import objective
from vaecli.training.settings import Settings

SAMPLES, DRAWS, BLOCKS = 4, 3_000, 25


def model_of(prior: LearnedPrior = "normal") -> VAE:
    """A small model that is far from its start."""
    config = ModelConfig(image_shape=(1, 2, 3), hidden=(5,), latent_dim=2, prior=prior)
    model = build(config, seed=0).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.05 if name.startswith("prior.") else 0.4) * noise)
    return model


def flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


def block_gradients(model: VAE, beta: float, gradient: Gradient) -> tuple[Tensor, Tensor]:
    """Mean gradients of encoder and of all else in each block of draws, (BLOCKS, parameters)."""
    image = torch.linspace(0.1, 0.9, 6, dtype=torch.float64).view(1, 1, 2, 3)
    generator = torch.Generator().manual_seed(7)
    encoder = list(model.encoder.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    rows = list[tuple[Tensor, Tensor]]()
    for _ in range(BLOCKS):
        noise = torch.randn(DRAWS, SAMPLES, 2, generator=generator, dtype=torch.float64)
        outcome = objective(model, image.expand(DRAWS, -1, -1, -1), noise, beta, 0.0, gradient)
        found = list(torch.autograd.grad(outcome.objective.mean(), [*encoder, *rest]))
        rows.append((flat(found[: len(encoder)]), flat(found[len(encoder) :])))
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


@pytest.mark.parametrize(("prior", "beta"), [("normal", 1.0), ("normal", 0.3), ("flow", 0.6)])
def test_it_is_the_gradient_of_the_bound_with_less_noise(prior: LearnedPrior, beta: float) -> None:
    model = model_of(prior)
    own, others = block_gradients(model, beta, "iwae")
    twice, same = block_gradients(model, beta, "dreg")
    torch.testing.assert_close(same, others)  # of decoder and prior, to rounding
    gap = twice - own  # of the same draws
    error = gap.std(0) / BLOCKS**0.5
    assert (gap.mean(0).abs() < 4.5 * error + 1e-12).all()
    scale = own.mean(0).abs().max()
    assert error.max() < 0.02 * scale, "too few draws to tell"
    assert twice.var(0).sum() < 0.9 * own.var(0).sum()


def test_one_sample_leaves_the_objective_as_it_is() -> None:
    """And the values that are reported never depend on which gradient it is."""
    model = model_of()
    noise = torch.randn(6, 3, 2, dtype=torch.float64)
    images = torch.rand(6, 1, 2, 3, dtype=torch.float64)
    found = [objective(model, images, noise, 0.7, 0.0, kind) for kind in ("iwae", "dreg")]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_it_is_the_default_where_there_are_several_samples() -> None:
    assert training(Settings(importance_samples=5)).gradient == "dreg"
    assert training(Settings(importance_samples=5, gradient="iwae")).gradient == "iwae"
    assert training(Settings(importance_samples=5, arch="grid")).gradient == "iwae"
    assert training(Settings()).gradient == "iwae"
    # a run that was begun before there was a choice goes on as it was
    assert TrainConfig(importance_samples=5).gradient == "iwae"
