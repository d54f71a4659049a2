"""Priors p(z): KL divergence, log ratio, and log densities of those other than N(0, I).

Axes: B batch, K importance samples, L latent dimension, J components.  Everything is in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vaecli.config import ModelConfig
from vaecli.model import network, numpy_learned_prior, numpy_prior

SCATTER = 0.7
"""Standard deviation of the means of a mixture that is to be learned."""


def kl_to_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence from q(z|x) to the prior N(0, I), for each latent dimension.

    With m = mean and v = log_variance::

        KL(N(m, exp(v)) || N(0, 1)) = (m^2 + exp(v) - 1 - v) / 2

    Source: Kingma & Welling 2014, appendix B, https://arxiv.org/abs/1312.6114

    Args:
        mean: m, of any shape; (B, L) for a batch.
        log_variance: v, same shape.

    Returns:
        Nats, same shape.

    Example:
        >>> kl_to_prior(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]]))
        tensor([[0., 2.]])
    """
    return 0.5 * (mean.square() + torch.exp(log_variance) - 1.0 - log_variance)


def log_prior_ratio(latents: Tensor, noise: Tensor, log_variance: Tensor) -> Tensor:
    """Log ratio of the prior N(0, I) to the posterior at latents drawn from the posterior.

    At z = m + exp(v/2) e, with e = noise and v = log_variance, the normalising constants of the
    two normals cancel::

        log p(z) - log q(z|x) = sum over L of (e^2 + v - z^2) / 2

    Its mean over many draws is minus the rate.

    Source: the importance weight of Burda et al. 2016, equation 8, without its p(x|z),
    https://arxiv.org/abs/1509.00519

    Args:
        latents: z, (B, K, L).
        noise: e, (B, K, L).
        log_variance: v, (B, L), or (B, K, L) where it depends on the draw.

    Returns:
        (B, K) nats.

    Example:
        One image, two draws of a latent with mean 1 and variance 1:

        >>> noise = torch.tensor([[[0.0], [2.0]]])
        >>> log_prior_ratio(1 + noise, noise, torch.zeros(1, 1))
        tensor([[-0.5000, -2.5000]])
    """
    noise = noise.to(latents.dtype)  # or its square is rounded before it meets float64
    if log_variance.ndim < noise.ndim:
        log_variance = log_variance.unsqueeze(1)
    return 0.5 * (noise.square() + log_variance - latents.square()).sum(-1)


def log_gain(prior: nn.Module, latents: Tensor) -> Tensor:
    """How much denser another prior is than N(0, I) at latents drawn from the posterior.

    ::

        log p(z) - log N(z; 0, I)

    Its mean is what the rate falls by: KL(q || p) = KL(q || N(0, I)) - E_q[log p(z) - log N(z)].
    So the closed form for N(0, I) stays, and only this is left to a draw.

    Args:
        prior: a module that gives log p(z).
        latents: z, (..., L).

    Returns:
        (...) nats.

    Example:
        A Gaussian at 1 in place of the one at 0:

        >>> import numpy as np
        >>> one = numpy_prior.Mixture(np.ones(1), np.ones((1, 1)), np.ones((1, 1, 1)))
        >>> log_gain(FullMixture(one).float(), torch.tensor([[1.0], [0.0]]))
        tensor([ 0.5000, -0.5000])
    """
    normal = -0.5 * (latents.square().sum(-1) + latents.shape[-1] * math.log(2 * math.pi))
    with torch.autocast(latents.device.type, enabled=False):  # bounds are computed in float32
        density: Tensor = prior(latents)
    return density - normal


class FullMixture(nn.Module):
    """The log density of `numpy_prior.Mixture`.

    Args:
        mixture: its weights, means and factors.

    Example:
        >>> import numpy as np
        >>> one = numpy_prior.Mixture(np.ones(1), np.ones((1, 1)), np.ones((1, 1, 1)))
        >>> FullMixture(one)(torch.ones(1, 1, dtype=torch.float64))
        tensor([-0.9189], dtype=torch.float64)
    """

    matrix: Tensor
    centres: Tensor
    constant: Tensor

    def __init__(self, mixture: numpy_prior.Mixture) -> None:
        super().__init__()
        self.name = mixture.name
        for name, values in zip(("matrix", "centres", "constant"), mixture.whitening, strict=True):
            self.register_buffer(name, torch.from_numpy(values))

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (..., L) to log p(z), (...)."""
        noise = latents @ self.matrix.T - self.centres
        squares = noise.unflatten(-1, (len(self.constant), -1)).square().sum(-1)
        return torch.logsumexp(self.constant - 0.5 * squares, -1)


class DiagonalMixture(nn.Module):
    """The log density of `numpy_learned_prior.DiagonalMixture`, whose parameters are learned.

    It starts near N(0, I): means scattered, variances so that the whole has variance 1.

    Args:
        dimension: L.

    Example:
        >>> DiagonalMixture(3)(torch.zeros(4, 2, 3)).shape
        torch.Size([4, 2])
    """

    name = "mixture"

    def __init__(self, dimension: int) -> None:
        super().__init__()
        count = network.PRIOR_COMPONENTS
        self.logits = nn.Parameter(torch.zeros(count))
        self.means = nn.Parameter(SCATTER * torch.randn(count, dimension))
        start = 0.5 * math.log(1 - SCATTER**2)
        self.log_scales = nn.Parameter(torch.full((count, dimension), start))

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (..., L) to log p(z), (...)."""
        # sum of ((z - m) / s)^2 by three products, so that nothing of (..., J, L) is kept
        precision = torch.exp(-2 * self.log_scales)
        linear = self.means * precision
        squares = latents.square() @ precision.T - 2 * latents @ linear.T
        squares = squares + (self.means * linear).sum(1)
        constant = torch.log_softmax(self.logits, 0) - self.log_scales.sum(1)
        constant = constant - 0.5 * latents.shape[-1] * math.log(2 * math.pi)
        return torch.logsumexp(constant - 0.5 * squares, -1)

    def latents(self, noise: Tensor) -> Tensor:
        """Latents (B, L) of noise (B, L + 1), whose last number in [0, 1) gives the component."""
        shares = torch.softmax(self.logits, 0).cumsum(0)[:-1]
        chosen = (noise[:, -1:] >= shares).sum(1)
        return self.means[chosen] + torch.exp(self.log_scales[chosen]) * noise[:, :-1]


class Coupling(nn.Module):
    """One coupling of `numpy_learned_prior.Flow`; it starts as the identity.

    Args:
        kept: how many latents it is computed from.
        changed: how many it changes.

    Example:
        >>> Coupling(2, 3)(torch.ones(5, 2))[0].shape
        torch.Size([5, 3])
    """

    def __init__(self, kept: int, changed: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(kept, network.FLOW_WIDTH)
        self.output = nn.Linear(network.FLOW_WIDTH, 2 * changed)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift (..., changed) from the latents (..., kept)."""
        scale, shift = self.output(torch.relu(self.hidden(kept))).chunk(2, -1)
        most = numpy_learned_prior.MOST_LOG_SCALE
        return most * torch.tanh(scale / most), shift


class Flow(nn.ModuleList):
    """The log density of `numpy_learned_prior.Flow`, which is learned; it starts as N(0, I).

    Args:
        dimension: L.

    Example:
        >>> Flow(2)(torch.zeros(1, 2))
        tensor([-1.8379], grad_fn=<AddBackward0>)
    """

    name = "flow"

    def __init__(self, dimension: int) -> None:
        self.places = network.coupled(dimension)
        super().__init__(Coupling(len(kept), len(changed)) for kept, changed in self.places)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (..., L) to log p(z), (...)."""
        halves = latents[..., ::2], latents[..., 1::2]
        volume = torch.zeros_like(latents[..., 0])
        for (_, changed), coupling in zip(self.places, self, strict=True):
            place = changed[0]  # 0 or 1: which half it changes
            scale, shift = coupling(halves[1 - place])
            moved = halves[place] * torch.exp(scale) + shift
            halves = (moved, halves[1]) if place == 0 else (halves[0], moved)
            volume = volume + scale.sum(-1)
        squares = sum(half.square().sum(-1) for half in halves)
        return -0.5 * (squares + latents.shape[-1] * math.log(2 * math.pi)) + volume

    def latents(self, noise: Tensor) -> Tensor:
        """The latents (B, L) whose noise is e, (B, L): the couplings the other way round."""
        halves = noise[..., ::2], noise[..., 1::2]
        for (_, changed), coupling in reversed(list(zip(self.places, self, strict=True))):
            place = changed[0]
            scale, shift = coupling(halves[1 - place])
            moved = (halves[place] - shift) * torch.exp(-scale)
            halves = (moved, halves[1]) if place == 0 else (halves[0], moved)
        if halves[0].shape[1] > halves[1].shape[1]:  # an odd number: the last one is alone
            last = halves[0][:, -1:]
            paired = torch.stack([halves[0][:, :-1], halves[1]], -1).flatten(1)
            return torch.cat([paired, last], 1)
        return torch.stack(halves, -1).flatten(1)


Learned = DiagonalMixture | Flow


def learned(config: ModelConfig) -> Learned | None:
    """The prior of a model that learns one, newly initialised; None for N(0, I).

    Example:
        >>> learned(ModelConfig(image_shape=(1, 28, 28))) is None
        True
    """
    kinds: dict[str, type[Learned]] = {"mixture": DiagonalMixture, "flow": Flow}
    return kinds[config.prior](config.latents) if config.prior in kinds else None
