"""Decodes reconstructions and samples to uint8 pixels."""

from __future__ import annotations

from torch import Tensor

from vaecli.data.dataset import as_float, to_uint8
from vaecli.model.bounds import elbo_terms
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.precision import inference
from vaecli.model.vae import VAE, reparameterize
from vaecli.noise import NormalNoise


def mean_image(model: VAE, latents: Tensor) -> Tensor:
    """E[x|z] for latents (N, L), as (N, C, H, W) in [0, 1]."""
    return mean_pixels(model, model.decoder(latents))


def mean_pixels(model: VAE, output: Tensor) -> Tensor:
    """E[x|z] of each pixel for decoder output of any shape, in [0, 1]."""
    name, log_scale = model.likelihood
    return LIKELIHOODS[name].mean(output, log_scale).clamp(0, 1)


@inference()
def decode(model: VAE, latents: Tensor) -> Tensor:
    """The mean image of p(x|z) for latents (N, L), as (N, C, H, W) uint8."""
    return to_uint8(mean_image(model, latents))


@inference()
def reconstruct(model: VAE, pixels: Tensor, *, noise: Tensor | None = None) -> Tensor:
    """Encode and decode images (N, C, H, W) uint8; returns the same shape and type.

    Args:
        model: the model, on the device of `pixels`.
        pixels: images of the model's shape.
        noise: (N, L) to draw the latent from q(z|x) instead of taking its mean.
    """
    latents, log_variance = model.encoder(as_float(pixels))
    if noise is not None:
        latents = reparameterize(latents, log_variance, noise)
    return decode(model, latents)


@inference()
def score(model: VAE, pixels: Tensor, noise: Tensor) -> dict[str, float]:
    """Loss, distortion and rate of one image (1, C, H, W) uint8 at one latent, in nats."""
    images = as_float(pixels)
    parameters, mean, log_variance = model(images, noise)
    terms = elbo_terms(images, parameters, mean, log_variance, *model.likelihood)
    return {
        "loss": float(terms.loss),
        "distortion": float(terms.distortion),
        "rate": float(terms.rate),
    }


def draw(model: VAE, count: int, *, seed: int, temperature: float = 1.0) -> Tensor:
    """Draw latents (count, L) from the prior N(0, temperature^2), on the model's device."""
    device = model.device
    noise = NormalNoise(model.config.latent_dim, seed=seed, purpose="samples", device=device)
    return temperature * noise.rows(0, count)


def sample(model: VAE, count: int, *, seed: int, temperature: float = 1.0) -> Tensor:
    """Decode `count` draws from the prior N(0, temperature^2); (count, C, H, W) uint8."""
    return decode(model, draw(model, count, seed=seed, temperature=temperature))
