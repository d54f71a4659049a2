"""The gradient written out against autograd's of `objective`, which defines it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from vaecli.config import Activation, Likelihood, ModelConfig, TrainConfig
from vaecli.model.prior import kl_to_prior
from vaecli.model.vae import VAE, build
from vaecli.training.backpropagation import Backpropagation, covers
from vaecli.training.flat import Flat
from vaecli.training.objective import Outcome, objective

CASES: list[dict[str, Any]] = [
    {"hidden": (400,), "latent_dim": 20},
    {"hidden": (30,), "latent_dim": 1},
    {"hidden": (30, 17), "latent_dim": 3},
    {"hidden": (9, 8, 7), "latent_dim": 5, "image_shape": (3, 5, 4)},
    *({"hidden": (30, 17), "latent_dim": 3, "activation": name} for name in get_args(Activation)),
]


def a_model(dtype: torch.dtype = torch.float32, **fields: Any) -> VAE:
    """A model whose logits are below 20, from where on torch takes softplus for the identity."""
    model = build(ModelConfig(**{"image_shape": (1, 28, 28), **fields}), seed=3).to(dtype)
    with torch.no_grad():
        model.encoder.mean.weight *= 3
    return model


def a_batch(model: VAE, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, *model.config.image_shape), generator=source) / 255
    noise = torch.randn(count, model.config.latent_dim, generator=source)
    return images.to(dtype), noise.to(dtype)


def flat(model: VAE) -> Flat:
    return Flat(dict(model.named_parameters()))


def by_autograd(
    model: VAE, images: Tensor, noise: Tensor, beta: Tensor, free_bits: float
) -> tuple[Outcome, list[Tensor]]:
    outcome = objective(model, images, noise, beta, free_bits)
    gradients = torch.autograd.grad(outcome.objective.mean(), list(model.parameters()))
    return outcome, list(gradients)


@pytest.mark.parametrize("fields", CASES, ids=str)
@pytest.mark.parametrize(("beta", "free"), [(1.0, False), (0.3, False), (4.0, True)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_is_the_gradient_of_the_objective(
    fields: dict[str, Any], beta: float, free: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """Relative to the norm of each tensor; the second batch is a short last one, in used memory."""
    model = a_model(dtype, **fields)
    kl = kl_to_prior(*model.encoder(a_batch(model, 16, dtype)[0]))
    free_bits = kl.flatten().quantile(0.5).item() if free else 0.0
    written_out, weight = (
        Backpropagation(model, flat(model), free_bits),
        torch.tensor(beta, dtype=dtype),
    )
    for count in (16, 5, 1, 16):
        images, noise = a_batch(model, count, dtype)
        outcome, gradients = by_autograd(model, images, noise, weight, free_bits)
        found = written_out(images, noise, weight)
        for name, mine, theirs in zip(Outcome._fields, found, outcome, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance, msg=name)
        for (name, parameter), by_it in zip(model.named_parameters(), gradients, strict=True):
            assert parameter.grad is not None, name
            gap = (parameter.grad - by_it).norm() / by_it.norm()
            assert gap <= tolerance, (name, count, gap)


@pytest.mark.parametrize("fields", CASES[:3], ids=str)
def test_products_in_bfloat16_are_those_of_autocast(fields: dict[str, Any]) -> None:
    """As far from the gradient in float32 as autocast's, and from the same rounded weights."""
    model, weight = a_model(**fields), torch.ones(())
    images, noise = a_batch(model, 64, torch.float32)
    written_out = Backpropagation(model, flat(model), 0.0, torch.bfloat16)
    for _ in range(2):
        _, exact = by_autograd(model, images, noise, weight, 0.0)
        with torch.autocast("cpu", torch.bfloat16):
            outcome = objective(model, images, noise, weight, 0.0)
        autocast = torch.autograd.grad(outcome.objective.mean(), list(model.parameters()))
        found = written_out(images, noise, weight)
        torch.testing.assert_close(found.distortion, outcome.distortion, rtol=1e-3, atol=0)
        torch.testing.assert_close(found.rate, outcome.rate, rtol=1e-2, atol=1e-3)
        trios = zip(model.named_parameters(), exact, autocast, strict=True)
        for (name, parameter), by_it, rounded in trios:
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            gap, usual = (
                (each - by_it).norm() / by_it.norm() for each in (parameter.grad, rounded)
            )
            assert 0 < gap < max(1.5 * usual, 0.01), (name, gap, usual)
        with torch.no_grad():  # the next step is with these weights, not with the first ones
            for parameter in model.parameters():
                parameter.mul_(1.1)


def test_the_rest_is_left_to_autograd() -> None:
    cpu, config = torch.device("cpu"), TrainConfig()
    mlp = a_model(hidden=(5,))
    assert covers(mlp, config, cpu)
    assert covers(mlp, TrainConfig(beta=2.0, free_bits=0.1, binarize="dynamic"), cpu)
    assert not covers(mlp, config, torch.device("cuda"))
    assert not covers(mlp, TrainConfig(importance_samples=2), cpu)
    assert not covers(a_model(arch="conv", hidden=(8,)), config, cpu)
    others: list[Likelihood] = [name for name in get_args(Likelihood) if name != "bernoulli"]
    for name in others:
        assert not covers(a_model(hidden=(5,), likelihood=name), config, cpu)
