"""The discretised mixture of logistics against sums, finite differences and the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vaecli.config import MIXTURE_COMPONENTS, Arch, ModelConfig, mixture_outputs
from vaecli.model import logistic_mixture, network, vae
from vaecli.model.bounds import log_likelihood
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.numpy_likelihoods import PIXELS
from vaecli.model.numpy_vae import NumpyVAE

MIXTURE = LIKELIHOODS["logistic-mixture"]


def outputs(
    channels: int, *positions: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random decoder output (P, positions) with scales between a level and the whole range."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(mixture_outputs(channels), *positions, generator=generator, dtype=dtype)
    logistic_mixture.split(drawn).log_scales.mul_(1.5).sub_(2)
    return drawn


def by_hand(x: list[float], o: list[float]) -> float:
    """log p of one pixel, from the formula of the paper, with the plain difference of sigmoids."""
    count, channels = MIXTURE_COMPONENTS, len(x)
    at = [o[first : first + count] for first in range(0, len(o), count)]
    logits, locations = at[0], at[1 : 1 + channels]
    log_scales, coefficients = at[1 + channels : 1 + 2 * channels], at[1 + 2 * channels :]
    v = [2 * value - 1 for value in x]
    total = 0.0
    for m in range(count):
        p = math.exp(logits[m]) / sum(map(math.exp, logits))
        c = [math.tanh(each[m]) for each in coefficients]
        for channel in range(channels):
            mu = locations[channel][m]
            if channel == 1:
                mu += c[0] * v[0]
            if channel == 2:
                mu += c[1] * v[0] + c[2] * v[1]
            s = math.exp(-7) * (1 + math.exp(log_scales[channel][m] + 7))
            upper = 1.0 if x[channel] == 1 else 1 / (1 + math.exp(-(v[channel] + 1 / 255 - mu) / s))
            lower = 0.0 if x[channel] == 0 else 1 / (1 + math.exp(-(v[channel] - 1 / 255 - mu) / s))
            p *= upper - lower
        total += p
    return math.log(total)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_formula_of_the_paper(channels: int) -> None:
    for seed, levels in enumerate(([0, 128, 255], [255, 0, 7], [60, 61, 250])):
        x = [level / 255 for level in levels[:channels]]
        o = outputs(channels, 1, 1, seed=seed)
        found = MIXTURE.log_prob(torch.tensor(x, dtype=o.dtype).view(-1, 1, 1), o, None)
        assert found.shape == (1, 1, 1)
        assert found.item() == pytest.approx(by_hand(x, o.flatten().tolist()), rel=1e-9)


def test_the_probabilities_of_all_colours_sum_to_one() -> None:
    """256^3 colours, channel by channel: p(red), p(green | red), p(blue | both) in turn."""
    o = outputs(3, 1, 1)
    levels = torch.arange(256, dtype=o.dtype) / 255

    def log_p(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
        pixels = torch.stack(torch.broadcast_tensors(red, green, blue)).flatten(1)
        values = MIXTURE.log_prob(pixels.unsqueeze(-2), o.expand(-1, 1, pixels.shape[1]), None)
        return values.flatten()

    rows = torch.stack(
        [
            log_p(levels[red], levels[:, None], levels[None]).exp().view(256, 256).sum(1)
            for red in range(256)
        ]
    )
    assert rows.sum().item() == pytest.approx(1, abs=1e-9)
    # and in red alone it is the mixture of its own logistics
    parts = logistic_mixture.split(o)
    only_red = torch.cat([parts.logits[None], parts.locations[:1], parts.log_scales[:1]]).flatten()
    alone = MIXTURE.log_prob(levels.view(256, 1, 1, 1), only_red.view(1, -1, 1, 1), None).exp()
    torch.testing.assert_close(rows.sum(1), alone.flatten(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_written_out_gradient_is_that_of_the_definition(channels: int) -> None:
    o = outputs(channels, 2, 5, 6)
    x = torch.randint(0, 256, (channels, 2, 5, 6)).double() / 127.5 - 1
    x[:, 0, 0], x[:, 0, 1] = -1, 1
    weight = torch.randn(2, 5, 6, dtype=torch.float64)
    found = []
    for function in (logistic_mixture.definition, logistic_mixture._LogProb.apply):
        leaf = o.clone().requires_grad_()
        value = function(x, leaf)
        (gradient,) = torch.autograd.grad((value * weight).sum(), leaf)
        found.append((value.detach(), gradient))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [*itertools.product((-1e4, -30.0, 30.0), repeat=2)])
def test_values_and_gradients_are_finite_however_far_off(low: float, high: float) -> None:
    o = torch.zeros(mixture_outputs(3), 1, 3, dtype=torch.float32)
    parts = logistic_mixture.split(o)
    parts.locations.fill_(low)
    parts.log_scales.fill_(min(high, 60.0))
    x = torch.tensor([0.0, 0.5, 1.0]).expand(3, 1, 3)
    o.requires_grad_()
    value = MIXTURE.log_prob(x, o, None)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert o.grad is not None
    assert torch.isfinite(o.grad).all()


def drawn(o: Tensor, count: int) -> Tensor:
    """Draws (count, C, H, W) of p(x|z) for its parameters (P, H, W)."""
    channels = 3 if len(o) == mixture_outputs(3) else 1
    u = np.random.default_rng(1).uniform(size=(count, 1 + channels, *o.shape[1:]))
    parameters = np.broadcast_to(o.numpy(), (count, *o.shape))
    return torch.from_numpy(PIXELS["logistic-mixture"].draw(parameters, u, None)).float()


def test_the_mean_and_the_draws_agree() -> None:
    o = outputs(3, 2, 2, dtype=torch.float32)
    logistic_mixture.split(o).log_scales.fill_(-3.0)
    logistic_mixture.split(o).locations.mul_(0.3)  # away from the ends, where means are exact
    logistic_mixture.split(o).coefficients.mul_(0.3)
    draws = drawn(o, 40_000)
    torch.testing.assert_close(draws * 255, (draws * 255).round(), rtol=0, atol=1e-3)
    torch.testing.assert_close(draws.mean(0), MIXTURE.mean(o, None), rtol=0, atol=5e-3)


def test_draws_have_the_probabilities_of_log_prob() -> None:
    """The mean of -log p of draws is the entropy, summed over all values of a grey pixel."""
    o = outputs(1, 1, 1, dtype=torch.float32)
    levels = (torch.arange(256) / 255).view(256, 1, 1, 1)
    p = MIXTURE.log_prob(levels, o, None).flatten().exp()
    draws = drawn(o, 50_000)
    counts = torch.bincount((draws * 255).round().long().flatten(), minlength=256)
    assert (counts / 50_000 - p).abs().max() < 5 * (p.max() / 50_000).sqrt()


@pytest.mark.parametrize("channels", [1, 3])
def test_training_starts_at_the_mean_image(channels: int) -> None:
    image = torch.rand(channels, 3, 4) * 0.4 + 0.3
    bias = MIXTURE.output_bias(image, 10**6)
    assert bias.shape == (mixture_outputs(channels), 3, 4)
    torch.testing.assert_close(MIXTURE.mean(bias, None), image, rtol=0, atol=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_numpy_has_the_same_values(channels: int) -> None:
    o = outputs(channels, 2, 4, 5, dtype=torch.float32).movedim(0, 1)
    x = torch.randint(0, 256, (2, channels, 4, 5)) / 255
    x[0, :, 0], x[0, :, 1] = 0, 1
    row = PIXELS["logistic-mixture"]
    np.testing.assert_allclose(
        row.log_prob(x.numpy(), o.numpy(), None), MIXTURE.log_prob(x, o, None), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(row.mean(o.numpy(), None), MIXTURE.mean(o, None), atol=1e-5)


@pytest.mark.parametrize("arch", ["mlp", "conv"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_architecture_gives_the_numbers_it_needs(arch: Arch, channels: int) -> None:
    config = ModelConfig(
        image_shape=(channels, 16, 17),
        arch=arch,
        hidden=(8,),
        latent_dim=3,
        likelihood="logistic-mixture",
    )
    model = vae.build(config, seed=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == network.of(config).shapes()
    images = torch.randint(0, 256, (2, channels, 16, 17)) / 255
    parameters, *_ = model(images, torch.zeros(2, 3))
    assert parameters.shape == (2, *config.output_shape)
    assert log_likelihood(images, parameters, *model.likelihood).shape == (2,)
    several, *_ = model(images, torch.zeros(2, 5, 3))
    repeated = log_likelihood(images, several, *model.likelihood)
    assert repeated.shape == (2, 5)
    torch.testing.assert_close(
        repeated[:, 0], log_likelihood(images, parameters, *model.likelihood)
    )
    in_numpy = NumpyVAE(config, model.weights())
    latents = np.random.default_rng(0).normal(size=(2, 3)).astype("f4")
    np.testing.assert_allclose(
        in_numpy.decode(latents), model.decoder(torch.from_numpy(latents)).detach(), atol=1e-4
    )
