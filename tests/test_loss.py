from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vaecli.loss import (
    bernoulli_log_likelihood,
    bernoulli_output_bias,
    elbo_terms,
    kl_to_prior,
    pixel_mean,
)

torch.manual_seed(0)
SHAPE = (6, 1, 4, 3)
IMAGES = torch.rand(SHAPE, dtype=torch.float64)
BITS = (IMAGES > 0.5).double()
LOGITS = 3 * torch.randn(SHAPE, dtype=torch.float64)
MEAN = 2 * torch.randn(6, 5, dtype=torch.float64)
LOG_VARIANCE = torch.randn(6, 5, dtype=torch.float64)


def test_kl_against_torch_distributions_and_by_hand() -> None:
    posterior = Normal(MEAN, torch.exp(LOG_VARIANCE / 2))
    expected = kl_divergence(posterior, Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_prior(MEAN, LOG_VARIANCE), expected)
    one = torch.tensor(1.0), torch.tensor(math.log(4.0))
    assert float(kl_to_prior(*one)) == pytest.approx((1 + 4 - 1 - math.log(4)) / 2)
    assert float(kl_to_prior(torch.zeros(()), torch.zeros(()))) == 0


def test_bernoulli_against_torch_distributions() -> None:
    expected = Bernoulli(logits=LOGITS).log_prob(BITS).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_log_likelihood(BITS, LOGITS), expected)


def test_grey_pixels_are_the_expectation_over_binarized_ones() -> None:
    black = bernoulli_log_likelihood(torch.zeros(1, 1), torch.tensor([[0.7]]))
    white = bernoulli_log_likelihood(torch.ones(1, 1), torch.tensor([[0.7]]))
    grey = bernoulli_log_likelihood(torch.tensor([[0.3]]), torch.tensor([[0.7]]))
    torch.testing.assert_close(grey, 0.7 * black + 0.3 * white)


@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("logit", [-1e4, -80.0, 80.0, 1e4])
def test_extreme_logits_are_exact_and_keep_their_gradient(pixel: float, logit: float) -> None:
    logits = torch.full((1, 1), logit, requires_grad=True)
    value = bernoulli_log_likelihood(torch.full((1, 1), pixel), logits)
    right = (logit > 0) == (pixel > 0)
    assert float(value.detach()) == pytest.approx(0.0 if right else -abs(logit))
    value.sum().backward()
    assert logits.grad is not None
    assert float(logits.grad) == pytest.approx(pixel - (logit > 0))


def test_terms_are_sums_over_pixels_and_latents_per_image() -> None:
    terms = elbo_terms(IMAGES, LOGITS, MEAN, LOG_VARIANCE)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, IMAGES, reduction="none")
    torch.testing.assert_close(terms.distortion, bce.flatten(1).sum(1))
    torch.testing.assert_close(terms.rate, kl_to_prior(MEAN, LOG_VARIANCE).sum(1))
    torch.testing.assert_close(terms.loss, terms.distortion + terms.rate)
    for index in range(len(IMAGES)):
        one = slice(index, index + 1)
        alone = elbo_terms(IMAGES[one], LOGITS[one], MEAN[one], LOG_VARIANCE[one])
        torch.testing.assert_close(alone.loss, terms.loss[one])


def test_output_bias_starts_at_the_mean_image() -> None:
    mean_image = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    bias = bernoulli_output_bias(mean_image, 1000)
    assert bias.isfinite().all()
    torch.testing.assert_close(pixel_mean(bias), mean_image, atol=1e-3, rtol=0)
