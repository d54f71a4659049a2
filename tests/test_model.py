from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from vaecli.config import ModelConfig
from vaecli.model.bounds import elbo_terms
from vaecli.model.network import count_parameters
from vaecli.model.vae import VAE, build, reparameterize

CONFIGS = [
    ModelConfig(image_shape=(1, 28, 28)),
    ModelConfig(image_shape=(3, 5, 7), hidden=(6,), latent_dim=2, activation="tanh"),
    ModelConfig(image_shape=(1, 4, 4), hidden=(9, 8, 7), latent_dim=3, activation="gelu"),
    ModelConfig(image_shape=(1, 2, 2), hidden=(5, 4), latent_dim=1, activation="silu"),
]


def test_the_default_model_is_the_classic_one() -> None:
    shapes = {name: tuple(t.shape) for name, t in VAE(CONFIGS[0]).state_dict().items()}
    assert shapes == {
        "encoder.hidden.0.weight": (400, 784),
        "encoder.hidden.0.bias": (400,),
        "encoder.mean.weight": (20, 400),
        "encoder.mean.bias": (20,),
        "encoder.log_variance.weight": (20, 400),
        "encoder.log_variance.bias": (20,),
        "decoder.hidden.0.weight": (400, 20),
        "decoder.hidden.0.bias": (400,),
        "decoder.output.weight": (784, 400),
        "decoder.output.bias": (784,),
    }
    assert count_parameters(CONFIGS[0]) == 652_824


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_shapes_and_a_gradient_for_every_parameter(config: ModelConfig) -> None:
    model = build(config, seed=1)
    images = torch.rand(5, *config.image_shape)
    logits, mean, log_variance = model(images, torch.randn(5, config.latent_dim))
    assert logits.shape == images.shape
    assert mean.shape == log_variance.shape == (5, config.latent_dim)
    elbo_terms(images, logits, mean, log_variance).loss.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_reparameterize_draws_from_the_named_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 200_000
    mean = torch.tensor([[0.0, -3.0, 2.0]], dtype=torch.float64)
    log_variance = torch.tensor([[0.0, 2.0, -4.0]], dtype=torch.float64)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    drawn = reparameterize(mean, log_variance, noise)
    std = torch.exp(log_variance / 2)[0]
    assert torch.allclose(drawn.mean(0), mean[0], atol=float(5 * std.max()) / count**0.5)
    assert torch.allclose(drawn.std(0), std, rtol=0.01)
    # the whole distribution, not two moments: the probability transform is uniform
    uniform = Normal(mean, std).cdf(drawn).sort(0).values
    ideal = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    assert (uniform - ideal[:, None]).abs().max() < 1.95 / count**0.5  # Kolmogorov, p = 0.001


def test_building_depends_on_the_seed_alone_and_leaves_the_global_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = build(CONFIGS[1], seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(4)
    second, other = build(CONFIGS[1], seed=1), build(CONFIGS[1], seed=2)
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.encoder.mean.weight, other.encoder.mean.weight)
