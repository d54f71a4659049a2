"""A linear Gaussian VAE, whose log p(x) is known: what the bounds and the estimate must do.

z ~ N(0, I), x | z ~ N(W z + c, s^2 I), so x ~ N(c, W W^T + s^2 I), and with orthogonal columns
of W the true posterior is a normal with diagonal covariance, which the encoder can be.  It is
vaecli's own network: ReLU units in pairs, relu(u) - relu(-u) = u, make its layers linear.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from test_likelihood import scale_parameter
from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.evaluation.evaluate import Evaluation, evaluate
from vaecli.model import numpy_prior
from vaecli.model.prior import FullMixture
from vaecli.model.vae import VAE, build

DIM, LATENTS, SIGMA = 9, 2, 0.1
CONFIG = ModelConfig(
    image_shape=(1, 3, 3), hidden=(2 * DIM,), latent_dim=LATENTS, likelihood="gaussian"
)
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.linalg.qr(torch.randn(DIM, LATENTS, generator=GENERATOR).double()).Q
WEIGHT = WEIGHT * torch.tensor([0.25, 0.12], dtype=torch.float64)
CENTRE = torch.full((DIM,), 0.5, dtype=torch.float64)
MARGINAL = MultivariateNormal(
    CENTRE, WEIGHT @ WEIGHT.T + SIGMA**2 * torch.eye(DIM, dtype=torch.float64)
)


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("evaluate", "likelihood_estimate"):
        where = f"vaecli.evaluation.{module}.as_float"
        monkeypatch.setattr(where, lambda pixels: pixels.double() / 255)


def linear_gaussian(*, shift: float = 0.0, widen: float = 0.0) -> VAE:
    """The model at its true posterior, or at one that is shifted and wider by `widen` nats."""
    model = build(CONFIG, seed=0).double()
    weights = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    pixels, latents = torch.eye(DIM).double(), torch.eye(LATENTS).double()
    precision = 1 + WEIGHT.square().sum(0) / SIGMA**2
    gain = (WEIGHT / SIGMA**2 / precision).T
    weights["encoder.hidden.0.weight"] = torch.cat([pixels, -pixels])
    weights["encoder.mean.weight"] = torch.cat([gain, -gain], 1)
    weights["encoder.mean.bias"] = shift - gain @ CENTRE
    weights["encoder.log_variance.bias"] = widen - precision.log()
    weights["decoder.hidden.0.weight"][: 2 * LATENTS] = torch.cat([latents, -latents])
    weights["decoder.output.weight"][:, : 2 * LATENTS] = torch.cat([WEIGHT, -WEIGHT], 1)
    weights["decoder.output.bias"] = CENTRE
    log_scale = scale_parameter("gaussian", SIGMA)
    assert log_scale is not None
    weights["decoder.log_scale"] = log_scale
    model.load_state_dict(weights)
    return model


PRIOR = numpy_prior.Mixture(
    weights=np.array([0.4, 0.6]),
    means=np.array([[0.8, -0.5], [-0.3, 0.6]]),
    factors=np.array([[[0.6, 0.0], [0.3, 0.5]], [[1.1, 0.0], [-0.2, 0.7]]]),
)
"""With it x is a mixture of normals, whose likelihood is known as well."""


def exact_under_mixture() -> Tensor:
    """-log p(x) of each image where p(z) is `PRIOR`."""
    factors, means = torch.from_numpy(PRIOR.factors), torch.from_numpy(PRIOR.means)
    noise = SIGMA**2 * torch.eye(DIM, dtype=torch.float64)
    each = [
        MultivariateNormal(CENTRE + WEIGHT @ mean, WEIGHT @ factor @ factor.T @ WEIGHT.T + noise)
        for mean, factor in zip(means, factors, strict=True)
    ]
    x = torch.as_tensor(IMAGES.pixels[:]).view(400, DIM).double() / 255
    log_probs = torch.stack([normal.log_prob(x) for normal in each], 1)
    return -torch.logsumexp(log_probs + torch.from_numpy(PRIOR.weights).log(), 1)


def draw(count: int) -> Images:
    values = MARGINAL.sample((count,)).clamp(0, 1)
    return Images((255 * values).round().byte().view(count, 1, 3, 3).numpy())


torch.manual_seed(1)
IMAGES = draw(400)
EXACT: Tensor = -MARGINAL.log_prob(torch.as_tensor(IMAGES.pixels[:]).view(400, DIM).double() / 255)


def judge(model: VAE, samples: int, seed: int = 0) -> Evaluation:
    return evaluate(model, IMAGES, seed=seed, importance_samples=samples)


def nll(result: Evaluation) -> Tensor:
    assert result.likelihoods is not None
    return result.likelihoods.nll


@pytest.mark.parametrize("samples", [1, 3, 64])
def test_at_the_true_posterior_every_weight_is_the_likelihood(samples: int) -> None:
    result = judge(linear_gaussian(), samples)
    torch.testing.assert_close(nll(result), EXACT, atol=1e-9, rtol=0)
    assert result.ess == pytest.approx(samples)
    # one draw of the distortion with the closed form of the rate: equal in expectation
    slack = (result.losses - EXACT).std() / math.sqrt(400)
    assert abs(result.loss - float(EXACT.mean())) < 4 * slack


def test_the_bounds_are_ordered_in_expectation() -> None:
    model = linear_gaussian(shift=0.3, widen=0.7)
    seeds = range(12)
    losses = torch.stack([evaluate(model, IMAGES, seed=seed).losses for seed in seeds]).mean(0)
    bounds = [
        torch.stack([nll(judge(model, samples, seed)) for seed in seeds]).mean(0)
        for samples in (1, 2, 8, 64)
    ]
    chain = [losses, *bounds]
    # ELBO = bound of one sample; then strictly better; all above the truth
    first = chain[1] - chain[0]
    assert abs(float(first.mean())) < 4 * float(first.std()) / math.sqrt(400)
    for looser, tighter in zip(chain[1:], [*bounds[1:], EXACT], strict=True):
        gain = looser - tighter
        assert float(gain.mean()) > 3 * float(gain.std()) / math.sqrt(400)


def test_the_gap_of_the_loss_is_the_divergence_from_the_true_posterior() -> None:
    shift, widen = 0.3, 0.7
    model = linear_gaussian(shift=shift, widen=widen)
    precision = 1 + WEIGHT.square().sum(0) / SIGMA**2
    divergence = 0.5 * (math.exp(widen) - 1 - widen + precision * shift**2).sum()
    gaps = torch.stack([evaluate(model, IMAGES, seed=s).losses - EXACT for s in range(20)]).mean(0)
    assert float(gaps.mean()) == pytest.approx(
        float(divergence), abs=4 * float(gaps.std()) / math.sqrt(400)
    )


def test_many_samples_cover_the_likelihood() -> None:
    model = linear_gaussian(shift=0.3, widen=0.7)
    result = judge(model, 4000)
    assert result.nll == pytest.approx(float(EXACT.mean()), abs=2e-3)
    assert 1 < result.ess < 4000
    assert result.nll_se == pytest.approx(float(nll(result).std()) / 20)
    assert abs(result.nll - float(EXACT.mean())) < result.nll_se
    assert result.nll < result.loss


def test_the_mean_weight_is_unbiased() -> None:
    """E[p(x|z) p(z) / q(z|x)] = p(x) at every K: average the estimates, not their logs."""
    model = linear_gaussian(widen=0.4)
    for samples in (1, 5):
        ratios = torch.stack(
            [torch.exp(EXACT - nll(judge(model, samples, seed))) for seed in range(60)]
        )
        assert float(ratios.mean()) == pytest.approx(
            1, abs=4 * float(ratios.std()) / math.sqrt(ratios.numel())
        )


def test_the_estimate_covers_the_likelihood_under_a_mixture() -> None:
    """The posterior is another then, and the draws are still the encoder's."""
    exact, model = exact_under_mixture(), linear_gaussian(widen=0.7)
    result = evaluate(model, IMAGES, seed=0, importance_samples=4000, prior=FullMixture(PRIOR))
    normal = judge(model, 4000)
    assert result.likelihoods is not None
    assert result.likelihoods.nll_normal is not None
    torch.testing.assert_close(result.likelihoods.nll_normal, nll(normal))
    torch.testing.assert_close(result.losses_normal, normal.losses)
    assert result.nll == pytest.approx(float(exact.mean()), abs=3e-3)
    assert abs(result.nll - normal.nll) > 0.05
    assert result.nll < result.loss
    assert result.kl_per_dim == normal.kl_per_dim


def test_the_loss_under_a_mixture_is_its_bound_of_one_sample_in_expectation() -> None:
    model, prior = linear_gaussian(widen=0.4), FullMixture(PRIOR)
    found = [
        evaluate(model, IMAGES, seed=seed, importance_samples=1, prior=prior) for seed in range(20)
    ]
    gaps = torch.stack([result.losses - nll(result) for result in found]).mean(0)
    assert abs(float(gaps.mean())) < 4 * float(gaps.std()) / math.sqrt(400)
