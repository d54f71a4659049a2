from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from vaecli.model.bounds import (
    ImportanceWeights,
    beta_objective,
    elbo_terms,
    importance_bound,
    importance_objective,
    log_likelihood,
    warm_up,
)
from vaecli.model.prior import kl_to_prior, log_prior_ratio

torch.manual_seed(0)
SHAPE = (6, 1, 4, 3)
IMAGES = torch.rand(SHAPE, dtype=torch.float64)
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


def test_the_rate_against_monte_carlo() -> None:
    """The mean of log q(z|x) - log p(z) over draws of z is the closed form."""
    count = 400_000
    noise = torch.randn(
        count, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    std = torch.exp(LOG_VARIANCE / 2)
    draws = MEAN + std * noise
    sampled = Normal(MEAN, std).log_prob(draws) - Normal(0.0, 1.0).log_prob(draws)
    error = sampled.std(0) / count**0.5
    assert ((sampled.mean(0) - kl_to_prior(MEAN, LOG_VARIANCE)).abs() < 5 * error).all()


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


def test_several_latents_per_image_are_each_their_own() -> None:
    parameters = 3 * torch.randn(6, 4, 1, 4, 3, dtype=torch.float64)
    found = log_likelihood(IMAGES, parameters)
    assert found.shape == (6, 4)
    for sample in range(4):
        torch.testing.assert_close(found[:, sample], log_likelihood(IMAGES, parameters[:, sample]))


def test_log_prior_ratio_against_torch_distributions() -> None:
    noise = torch.randn(6, 7, 5, dtype=torch.float64)
    std = torch.exp(LOG_VARIANCE / 2).unsqueeze(1)
    latents = MEAN.unsqueeze(1) + std * noise
    prior = Normal(0.0, 1.0).log_prob(latents).sum(-1)
    posterior = Normal(MEAN.unsqueeze(1), std).log_prob(latents).sum(-1)
    torch.testing.assert_close(log_prior_ratio(latents, noise, LOG_VARIANCE), prior - posterior)


def test_importance_bound_by_hand_and_far_from_one() -> None:
    weights = torch.tensor([[1.0, 3.0], [0.5, 0.5]], dtype=torch.float64)
    expected = torch.tensor([2.0, 0.5], dtype=torch.float64).log()
    torch.testing.assert_close(importance_bound(weights.log()), expected)
    torch.testing.assert_close(importance_bound(weights.log() - 9000), expected - 9000)


@pytest.mark.parametrize("part", [1, 3, 8, 300])
def test_weights_in_parts_are_weights_at_once(part: int) -> None:
    log_weights = 30 * torch.randn(5, 300, dtype=torch.float64) - 500
    weights = ImportanceWeights(5)
    for piece in log_weights.split(part, 1):
        weights.add(piece)
    torch.testing.assert_close(weights.bound(), importance_bound(log_weights))
    share = torch.softmax(log_weights, 1)
    torch.testing.assert_close(weights.effective_samples(), 1 / share.square().sum(1))


def test_equal_weights_are_all_effective_and_one_heavy_one_is_alone() -> None:
    weights = ImportanceWeights(2)
    weights.add(torch.tensor([[-700.0] * 6, [-700.0] * 5 + [-100.0]]))
    torch.testing.assert_close(
        weights.effective_samples(), torch.tensor([6.0, 1.0], dtype=torch.float64)
    )


def test_beta_and_free_bits_by_hand() -> None:
    distortion = torch.tensor([10.0, 20.0])
    kl = torch.tensor([[0.1, 2.0, 0.5], [0.0, 0.0, 3.0]])
    assert beta_objective(distortion, kl).tolist() == pytest.approx([12.6, 23.0])
    assert beta_objective(distortion, kl, beta=0.5).tolist() == pytest.approx([11.3, 21.5])
    # 0.5 nats are free in each dimension: max(0.1, 0.5) + 2 + 0.5, and 0.5 + 0.5 + 3
    free = beta_objective(distortion, kl, free_bits=0.5)
    assert free.tolist() == pytest.approx([13.0, 24.0])
    both = beta_objective(distortion, kl, free_bits=0.5, beta=4.0)
    assert both.tolist() == pytest.approx([22.0, 36.0])


def test_free_bits_take_away_the_gradient_below_them_and_only_there() -> None:
    kl = torch.tensor([[0.1, 2.0]], requires_grad=True)
    beta_objective(torch.zeros(1), kl, beta=3.0, free_bits=0.5).sum().backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, 3.0]]


def test_warm_up_by_hand() -> None:
    assert [warm_up(step, 4) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


def test_importance_objective_by_hand() -> None:
    likelihoods = torch.tensor([[2.0, 0.5]], dtype=torch.float64).log()
    ratios = torch.tensor([[0.25, 4.0]], dtype=torch.float64).log()
    plain = importance_objective(likelihoods, ratios)
    assert float(plain) == pytest.approx(-math.log((0.5 + 2) / 2))
    warming = importance_objective(likelihoods, ratios, beta=0.5)
    assert float(warming) == pytest.approx(-math.log((2 * 0.5 + 0.5 * 2) / 2))
    none = importance_objective(likelihoods, ratios, beta=0.0)
    assert float(none) == pytest.approx(-math.log(1.25))
