"""Each likelihood against independent truth: sums, integrals, other libraries, differences."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Normal

from vaecli.config import Likelihood, ModelConfig
from vaecli.evaluation import units
from vaecli.model.bounds import log_likelihood
from vaecli.model.distribution import learned_scale
from vaecli.model.likelihoods import LIKELIHOODS, bounded
from vaecli.model.numpy_likelihoods import LEVELS, PIXELS

NAMES: list[Likelihood] = [name for name in LIKELIHOODS if name != "logistic-mixture"]
"""Those with one number per pixel; `test_logistic_mixture.py` tests the other."""
DOUBLE = torch.float64
LEVEL_VALUES = torch.arange(LEVELS, dtype=DOUBLE) / (LEVELS - 1)


def scale_parameter(name: Likelihood, scale: float) -> Tensor | None:
    """The log scale at which the learned scale is `scale`, by bisection."""
    if LIKELIHOODS[name].log_scale is None:
        return None
    low, high = -30.0, 30.0
    for _ in range(200):
        middle = (low + high) / 2
        below = float(learned_scale(torch.tensor(middle, dtype=DOUBLE))) < scale
        low, high = (middle, high) if below else (low, middle)
    return torch.tensor(low, dtype=DOUBLE)


def cases() -> list[tuple[Likelihood, float, float]]:
    outputs = {
        "bernoulli": (-40.0, -1.0, 0.0, 2.5, 40.0),
        "continuous-bernoulli": (-60.0, -3.0, -0.3, -1e-5, 0.0, 1e-9, 0.19, 0.21, 5.0, 60.0),
        "gaussian": (-0.4, 0.0, 0.3, 1.0, 1.7),
        "logistic": (-0.4, 0.0, 0.3, 1.0, 1.7),
    }
    scales = {"gaussian": (0.02, 0.3), "logistic": (0.002, 0.02, 0.3)}
    return [
        (name, output, scale)
        for name in NAMES
        for output, scale in product(outputs[name], scales.get(name, (1.0,)))
    ]


def support(name: Likelihood, output: float, scale: float) -> tuple[Tensor, Tensor]:
    """Points and the weights that turn a sum over them into the total probability."""
    if name == "bernoulli":
        return torch.tensor([0.0, 1.0], dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    if name == "logistic":
        return LEVEL_VALUES, torch.ones(LEVELS, dtype=DOUBLE)
    low, high = 0.0, 1.0
    if name == "gaussian":
        low, high = output - 10 * scale, output + 10 * scale
    points = torch.linspace(low, high, 20_001, dtype=DOUBLE)
    weights = torch.full_like(points, 2.0)  # Simpson's rule
    weights[1::2] = 4
    weights[[0, -1]] = 1
    return points, weights * (high - low) / (3 * 20_000)


@pytest.mark.parametrize(("name", "output", "scale"), cases())
def test_it_is_normalised_and_has_the_mean_it_names(
    name: Likelihood, output: float, scale: float
) -> None:
    distribution, log_scale = LIKELIHOODS[name], scale_parameter(name, scale)
    points, weights = support(name, output, scale)
    parameters = torch.full_like(points, output)
    mass = distribution.log_prob(points, parameters, log_scale).exp() * weights
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    mean = float(distribution.mean(parameters[:1], log_scale))
    # the logistic's mean is an integral where the levels make a sum: a tenth of a level
    tolerance = 0.1 / 255 if name == "logistic" else 1e-9
    assert mean == pytest.approx(float((mass * points).sum()), abs=tolerance)


@pytest.mark.parametrize(("name", "output", "scale"), cases())
def test_draws_have_the_distribution_they_name(
    name: Likelihood, output: float, scale: float
) -> None:
    distribution, log_scale = LIKELIHOODS[name], scale_parameter(name, scale)
    points, weights = support(name, output, scale)
    mass = distribution.log_prob(points, torch.full_like(points, output), log_scale).exp() * weights
    count = 20_000
    u = np.random.default_rng(1).uniform(size=count)
    number = None if log_scale is None else float(log_scale)
    drawn = torch.from_numpy(PIXELS[name].draw(np.full(count, output), u, number))
    # the distribution functions agree everywhere (Kolmogorov, p = 0.001)
    between = (points[1:] + points[:-1]) / 2
    expected = mass.cumsum(0)[:-1]
    found = (drawn[:, None] <= between[None, ::37]).double().mean(0)
    slack = 1.95 / math.sqrt(count) + (0 if name in ("bernoulli", "logistic") else 2e-3)
    assert (found - expected[::37]).abs().max() < slack
    if "bernoulli" in name:
        assert drawn.min() >= 0
        assert drawn.max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [0.0, 17 / 255, 1.0])
def test_the_gradient_is_that_of_differences(name: Likelihood, x: float) -> None:
    outputs = torch.tensor([-8.0, -0.21, -0.19, -1e-3, 0.0, 1e-3, 0.5, 1.5, 8.0], dtype=DOUBLE)
    outputs.requires_grad_()
    start = LIKELIHOODS[name].log_scale
    log_scale = None if start is None else torch.tensor(start, dtype=DOUBLE, requires_grad=True)
    pixels = torch.full((9,), x, dtype=DOUBLE)
    inputs = [outputs] if log_scale is None else [outputs, log_scale]
    assert torch.autograd.gradcheck(
        lambda *values: LIKELIHOODS[name].log_prob(pixels, values[0], *(values[1:] or (None,))),
        inputs,
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [0.0, 1 / 255, 1.0])
def test_numbers_stay_finite_at_extremes(name: Likelihood, x: float) -> None:
    """All black and all white images, outputs and scales far out, in float32."""
    outputs = torch.tensor([-1e4, -88.0, -0.5, 0.0, 1e-20, 1.0, 88.0, 1e4], requires_grad=True)
    scales: tuple[float | None, ...] = (None,)
    if LIKELIHOODS[name].log_scale is not None:
        scales = (-100.0, -7.0, 0.0, 8.0)
    for value in scales:
        log_scale = None if value is None else torch.tensor(value, requires_grad=True)
        result = LIKELIHOODS[name].log_prob(torch.full((8,), x), outputs, log_scale)
        assert result.isfinite().all()
        (gradient,) = torch.autograd.grad(result.sum(), outputs)
        assert gradient.isfinite().all()
        assert LIKELIHOODS[name].mean(outputs, log_scale).isfinite().all()


def test_against_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    output = 3 * torch.randn(500, generator=generator, dtype=DOUBLE)
    x = torch.rand(500, generator=generator, dtype=DOUBLE)
    bits = (x > 0.5).double()
    for name, pixels, oracle in (
        ("bernoulli", bits, Bernoulli(logits=output)),
        ("continuous-bernoulli", x, ContinuousBernoulli(logits=bounded(output))),
        ("gaussian", x, Normal(output, 0.3)),
    ):
        found = LIKELIHOODS[name].log_prob(pixels, output, scale_parameter(name, 0.3))  # type: ignore[index,arg-type]
        # torch's continuous Bernoulli is a Taylor series over a wide range around 1/2
        torch.testing.assert_close(found, oracle.log_prob(pixels), atol=1e-5, rtol=0)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NAMES)
def test_what_its_loss_means_is_said(name: Likelihood) -> None:
    assert units.describe(ModelConfig(image_shape=(1, 28, 28), likelihood=name)).endswith(".")


def test_grey_pixels_under_a_bernoulli_are_the_expectation_over_binarized_ones() -> None:
    log_prob = LIKELIHOODS["bernoulli"].log_prob
    logit = torch.tensor(0.7)
    black, white, grey = (log_prob(torch.tensor(x), logit, None) for x in (0.0, 1.0, 0.3))
    torch.testing.assert_close(grey, 0.7 * black + 0.3 * white)


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -80.0, 80.0, 1e4])
def test_extreme_logits_are_exact_and_keep_their_gradient(pixel: float, logit: float) -> None:
    logits = torch.tensor(logit, requires_grad=True)
    value = LIKELIHOODS["bernoulli"].log_prob(torch.tensor(pixel), logits, None)
    right = (logit > 0) == (pixel > 0)
    assert float(value.detach()) == pytest.approx(0.0 if right else -abs(logit))
    value.backward()
    assert logits.grad is not None
    assert float(logits.grad) == pytest.approx(pixel - (logit > 0))


@pytest.mark.parametrize("name", NAMES)
def test_the_output_bias_starts_at_the_mean_image(name: Likelihood) -> None:
    mean_image = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=DOUBLE)
    bias = LIKELIHOODS[name].output_bias(mean_image, 1000)
    assert bias.isfinite().all()
    found = LIKELIHOODS[name].mean(bias, scale_parameter(name, 0.05)).clamp(0, 1)
    # a density over [0, 1] starts a black pixel a little above black, where it can still learn
    tolerance = 0.1 if name in ("continuous-bernoulli", "logistic") else 1e-3
    torch.testing.assert_close(found, mean_image, atol=tolerance, rtol=0)
    torch.testing.assert_close(found[1:4], mean_image[1:4], atol=1e-3, rtol=0)


def test_the_learned_scale_has_a_floor_and_a_gradient_there() -> None:
    for value in (-40.0, -7.0, -1.0, 3.0):
        log_scale = torch.tensor(value, dtype=DOUBLE, requires_grad=True)
        scale = learned_scale(log_scale)
        assert float(scale.detach()) >= math.exp(-7)
        (gradient,) = torch.autograd.grad(scale, log_scale)
        assert gradient > 0
    assert float(learned_scale(torch.tensor(-1.0, dtype=DOUBLE))) == pytest.approx(
        math.exp(-1), rel=0.01
    )


@pytest.mark.parametrize("pixels", [1, 63, 64, 65, 128, 784])
def test_the_sum_without_a_gradient_is_the_sum_of_the_logarithms(pixels: int) -> None:
    """Against torch.distributions in float64, at logits small and large, grey pixels and not."""
    source = torch.Generator().manual_seed(pixels)
    x = torch.randint(256, (5, pixels), generator=source) / 255
    x[0], x[1] = 0, 1
    logits = torch.randn(5, 3, pixels, generator=source) * torch.tensor([0.1, 5, 200])[:, None]
    truth = Bernoulli(logits=logits.double(), validate_args=False)
    expected = truth.log_prob(x.double()[:, None]).sum(-1)
    with torch.no_grad():
        found = log_likelihood(x, logits)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-5)
    logits.requires_grad_()
    torch.testing.assert_close(log_likelihood(x, logits).detach(), found, rtol=1e-6, atol=1e-5)
