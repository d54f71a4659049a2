"""How good a model is on a set of images: the bound, its parts, and the likelihood behind it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vaecli.config import ModelConfig
from vaecli.data.dataset import Images
from vaecli.data.labels import on_device
from vaecli.evaluation.latent_space import ACTIVE_VARIANCE
from vaecli.evaluation.likelihood_estimate import BATCH_SIZE, Likelihoods, estimate
from vaecli.model import network, numpy_learned_prior
from vaecli.model.bounds import elbo_terms
from vaecli.model.operations import Inject
from vaecli.model.precision import inference
from vaecli.model.prior import FullMixture, kl_to_prior, log_gain
from vaecli.model.vae import VAE, as_float, reparameterize
from vaecli.noise import LevelNoise, NormalNoise
from vaecli.system.callbacks import Progress, no_progress
from vaecli.system.device import float64_home, in_float64
from vaecli.system.processes import ONE_PROCESS, Processes


@dataclass(frozen=True)
class Evaluation:
    """The bound image by image, with the noise kept (it is a bound only with it).

    Attributes:
        distortions: (N,) float64, -log p(x|z) at one draw per image, nats.
        rates: (N,) float64, KL(q(z|x) || p(z)), nats; at that draw, where p is not N(0, I).
        means: (N, L) mean of q(z|x), the embedding.
        kl_per_dim: KL to N(0, I) of each latent dimension, nats per image; of a model that learned
            its prior, to the normal of its mean and variance there.  Only N(0, I) adds up.
        likelihoods: with importance samples, else None.
        prior: the name of p(z).
        rates_normal: the rates under N(0, I), where another prior was given in its place.
        scale: (L,) standard deviation of each latent under a learned prior.
    """

    distortions: Tensor
    rates: Tensor
    means: Tensor
    kl_per_dim: tuple[float, ...]
    likelihoods: Likelihoods | None = None
    prior: str = "normal"
    rates_normal: Tensor | None = None
    scale: Tensor | None = None

    @property
    def n_images(self) -> int:
        """Number of images N."""
        return len(self.rates)

    @property
    def losses(self) -> Tensor:
        """Negative ELBO of each image, (N,) nats."""
        return self.distortions + self.rates

    @property
    def losses_normal(self) -> Tensor | None:
        """The losses under N(0, I), where another prior was given in its place."""
        return None if self.rates_normal is None else self.distortions + self.rates_normal

    @property
    def loss(self) -> float:
        """Negative ELBO, distortion + rate, nats per image."""
        return self.distortion + self.rate

    @property
    def elbo(self) -> float:
        """Evidence lower bound, nats per image."""
        return -self.loss

    @property
    def distortion(self) -> float:
        """-E_q[log p(x|z)], nats per image."""
        return float(self.distortions.mean())

    @property
    def rate(self) -> float:
        """KL(q(z|x) || p(z)), nats per image."""
        return float(self.rates.mean())

    @property
    def scaled_means(self) -> Tensor:
        """The means in standard deviations of the prior, (N, L)."""
        return self.means if self.scale is None else self.means / self.scale

    @property
    def active(self) -> Tensor:
        """Whether Var_x[mean(x)] > 0.01 of each latent, in variances of the prior; (L,)."""
        return self.scaled_means.double().var(0, correction=0) > ACTIVE_VARIANCE

    @property
    def active_units(self) -> int:
        """How many latents are active."""
        return int(self.active.sum())

    @property
    def nll(self) -> float:
        """Negative log p(x) as far as K samples tell, nats per image; NaN without samples."""
        return math.nan if self.likelihoods is None else float(self.likelihoods.nll.mean())

    @property
    def nll_se(self) -> float:
        """Standard error of `nll` over the images; NaN for a single one."""
        if self.likelihoods is None or self.n_images < 2:
            return math.nan
        return float(self.likelihoods.nll.std() / math.sqrt(self.n_images))

    @property
    def ess(self) -> float:
        """Effective number of importance samples, mean over the images."""
        return math.nan if self.likelihoods is None else float(self.likelihoods.effective.mean())


def groups(result: Evaluation, config: ModelConfig) -> list[dict[str, int | float]]:
    """What each level of a grid's latents does, the coarsest first.

    Returns:
        Its height and width, its latents, how many are active, and their rate in nats per image.
    """
    active, found = result.active, []
    for operation in network.of(config).decoder:
        if isinstance(operation, Inject):
            latents, (_, height, width) = slice(operation.start, operation.stop), operation.shape
            found.append(
                {
                    "height": height,
                    "width": width,
                    "latents": operation.stop - operation.start,
                    "active_units": int(active[latents].sum()),
                    "rate": sum(result.kl_per_dim[latents]),
                }
            )
    return found


@inference()
def evaluate(
    model: VAE,
    images: Images,
    *,
    seed: int,
    batch_size: int = BATCH_SIZE,
    redraw: bool = False,
    importance_samples: int | None = None,
    prior: FullMixture | None = None,
    progress: Progress = no_progress,
    before_batch: Callable[[], None] = lambda: None,
    processes: Processes = ONE_PROCESS,
) -> Evaluation:
    """Judge `model` on `images`.

    All that is drawn for an image depends on its place in the set and on `seed`, not on the
    batch size; sums are kept in float64.

    Args:
        model: the model, on any device.
        images: at least one image of the model's shape.
        seed: the run's seed, to repeat what was recorded while training.
        batch_size: images per pass; changes speed and memory, not the meaning.
        redraw: draw each pixel black or white with its grey level's probability.
        importance_samples: K, to estimate log p(x) as well.
        prior: to judge by instead of N(0, I).
        progress: told (what, done, total) as it goes.
        before_batch: called before each pass; raises to end the evaluation.
        processes: those that judge together, pass by pass in turn, which changes no bit.
    """
    pixels, device = images.pixels, model.device
    labels = on_device(model.config, images, device)
    shape, latent_dim = model.config.image_shape, model.config.latents
    levels = LevelNoise(shape, seed=seed, purpose="evaluation", device=device) if redraw else None
    noise = NormalNoise(latent_dim, seed=seed, purpose="evaluation", device=device)
    dtype, home = next(model.parameters()).dtype, float64_home(device)
    judged = model.prior if prior is None else prior.to(device, dtype)
    centre, scale = _moments(model)
    terms = torch.zeros(3, len(pixels), dtype=torch.float64, device=home)
    means = torch.zeros(len(pixels), latent_dim, dtype=dtype, device=device)
    count = math.ceil(len(pixels) / batch_size)
    kl = torch.zeros(count, latent_dim, dtype=torch.float64, device=home)
    for number, start in enumerate(range(0, len(pixels), batch_size)):
        if number % processes.count == 0:
            before_batch()  # as often in every process
        if number % processes.count != processes.rank:
            continue
        batch = torch.as_tensor(pixels[start : start + batch_size]).to(device)
        x = as_float(batch if levels is None else levels.binarize(batch, start)).to(dtype)
        stop = start + len(x)
        e = noise.rows(start, stop).to(dtype)
        y = None if labels is None else labels[start:stop]
        parameters, mean, log_variance = model(x, e, y)
        distortion, rate = elbo_terms(x, parameters, mean, log_variance, *model.likelihood)
        terms[0, start:stop], terms[1, start:stop] = in_float64(distortion), in_float64(rate)
        if judged is not None:
            gain = log_gain(judged, reparameterize(mean, log_variance, e))
            terms[2, start:stop] = in_float64(gain)
        # a grid's mean depends on the draw: the embedding is the one without
        grid = model.config.arch == "grid"
        means[start:stop] = model.encode(x, labels=y)[0] if grid else mean
        if scale is not None:
            mean, log_variance = (mean - centre) / scale, log_variance - 2 * scale.log()
        kl[number] = in_float64(kl_to_prior(mean, log_variance)).sum(0)
        progress("loss", stop, len(pixels))
    for part in (terms, means, kl):  # each number is one process's, and 0 in all others: exact
        processes.add(part)
    kl_per_dim = (kl.sum(0) / len(pixels)).tolist()
    likelihoods = None
    if importance_samples is not None:
        likelihoods = estimate(
            model, pixels, importance_samples, seed, batch_size, progress, levels, judged, labels
        )
    distortions, rates, gains = terms.cpu()
    return Evaluation(
        distortions,
        rates - gains,
        means.cpu(),
        tuple(kl_per_dim),
        likelihoods,
        prior="normal" if judged is None else judged.name,
        rates_normal=None if prior is None else rates,
        scale=None if scale is None else scale.cpu(),
    )


def _moments(model: VAE) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Mean and standard deviation of each latent under a learned prior, (L,)."""
    if model.prior is None:
        return None, None
    like = next(model.parameters())
    mean, std = numpy_learned_prior.of(model.config, model.weights()).moments
    # in two steps: Metal takes no float64
    first, second = (torch.from_numpy(part).to(like.dtype).to(like.device) for part in (mean, std))
    return first, second
