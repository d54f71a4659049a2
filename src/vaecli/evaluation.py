"""How good a model is on a set of images: the bound and its parts, in nats per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vaecli.config import ModelConfig
from vaecli.data.dataset import Images, as_float
from vaecli.loss import elbo_terms, kl_to_prior
from vaecli.model import VAE
from vaecli.noise import NormalNoise

BATCH_SIZE = 256
ACTIVE_VARIANCE = 0.01
"""A latent is active where Var_x[mean(x)] exceeds this (Burda et al. 2016, section 5)."""


@dataclass(frozen=True)
class Evaluation:
    """The bound averaged over images, with the noise kept (it is a bound only with it).

    Attributes:
        n_images: number of images N.
        loss: negative ELBO, distortion + rate, nats per image.
        distortion: -E_q[log p(x|z)] from one draw per image, nats per image.
        rate: KL(q(z|x) || p(z)), nats per image.
        kl_per_dim: the rate of each latent dimension, nats per image.
        active_units: latents with Var_x[mean(x)] > 0.01.
    """

    n_images: int
    loss: float
    distortion: float
    rate: float
    kl_per_dim: tuple[float, ...]
    active_units: int

    @property
    def elbo(self) -> float:
        """Evidence lower bound, nats per image."""
        return -self.loss


@torch.inference_mode()
def evaluate(
    model: VAE,
    images: Images,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    before_batch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Judge `model` on `images`.

    The noise of an image depends on its place in the set and on `seed`, not on the batch size;
    sums are kept in float64.

    Args:
        model: the model; its parameters and `images` lie on the same device.
        images: at least one image of the model's shape.
        seed: the run's seed, to repeat what was recorded while training.
        batch_size: images per pass; changes speed and memory, not the meaning.
        before_batch: called before each pass; raises to end the evaluation.
    """
    latent_dim = model.config.latent_dim
    device = images.pixels.device
    noise = NormalNoise(latent_dim, seed=seed, purpose="evaluation", device=device)
    distortion = torch.zeros((), dtype=torch.float64, device=device)
    kl, mean_sum, mean_square = torch.zeros(3, latent_dim, dtype=torch.float64, device=device)
    for start, batch in batches(images.pixels, batch_size):
        before_batch()
        x = as_float(batch)
        logits, mean, log_variance = model(x, noise.rows(start, start + len(x)))
        distortion += elbo_terms(x, logits, mean, log_variance).distortion.double().sum()
        kl += kl_to_prior(mean, log_variance).double().sum(0)
        mean_sum += mean.double().sum(0)
        mean_square += mean.double().square().sum(0)
    count = len(images)
    variance = mean_square / count - (mean_sum / count).square()
    rate = float(kl.sum()) / count
    return Evaluation(
        n_images=count,
        loss=float(distortion) / count + rate,
        distortion=float(distortion) / count,
        rate=rate,
        kl_per_dim=tuple((kl / count).tolist()),
        active_units=int((variance > ACTIVE_VARIANCE).sum()),
    )


def batches(pixels: Tensor, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Pairs of a start index and the images from there on, in order, the short last one too."""
    for start in range(0, len(pixels), batch_size):
        yield start, pixels[start : start + batch_size]


def protocol(config: ModelConfig) -> str:
    """Which quantity a loss of this model is, in one sentence."""
    del config
    return (
        "Grey-scale BCE: pixels in [0, 1] under a Bernoulli; an upper bound on the expected"
        " dynamically binarized loss, no normalised likelihood of the grey image."
    )
