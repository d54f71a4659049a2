"""Encoder, decoder and the reparameterization between them.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from vaecli.config import SCALED_LIKELIHOODS, Likelihood, ModelConfig
from vaecli.model import convolution

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Encoder(nn.Module):
    """Images to the mean and log variance of q(z|x) = N(mean, diag(exp(log_variance)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.flat = config.arch == "mlp"
        activation = ACTIVATIONS[config.activation]
        if config.arch == "conv":
            self.hidden = convolution.contraction(config, activation)
            width = convolution.dense_width(config)
        else:
            widths = (config.pixels, *config.hidden)
            self.hidden, width = nn.Sequential(*_mlp(widths, activation)), widths[-1]
        self.mean = nn.Linear(width, config.latent_dim)
        self.log_variance = nn.Linear(width, config.latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) in [0, 1] to mean (B, L) and log variance (B, L)."""
        features = self.hidden(images.flatten(1) if self.flat else images)
        # under autocast the layers return bfloat16; the bound is computed in float32
        return self.mean(features).to(images.dtype), self.log_variance(features).to(images.dtype)


class Decoder(nn.Module):
    """Latents to the parameters of p(x|z), one per pixel; logits for a Bernoulli.

    `log_scale` is the one learned scale of a likelihood that has one, a number, else None.
    """

    log_scale: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.image_shape = config.image_shape
        activation = ACTIVATIONS[config.activation]
        self.hidden: nn.Sequential
        self.output: nn.Linear | convolution.Output
        if config.arch == "conv":
            self.hidden = convolution.expansion(config, activation)
            self.output = convolution.Output(convolution.last_channels(config), self.image_shape)
        else:
            widths = (config.latent_dim, *reversed(config.hidden))
            self.hidden = nn.Sequential(*_mlp(widths, activation))
            self.output = nn.Linear(widths[-1], config.pixels)
        scaled = config.likelihood in SCALED_LIKELIHOODS
        self.register_parameter("log_scale", nn.Parameter(torch.zeros(())) if scaled else None)

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (B, L) to pixel parameters (B, C, H, W)."""
        output: Tensor = self.output(self.hidden(latents)).to(latents.dtype)
        return output.view(-1, *self.image_shape)


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def likelihood(self) -> tuple[Likelihood, Tensor | None]:
        """Name and learned log scale of p(x|z), as the functions of `bounds.py` take them."""
        return self.config.likelihood, self.decoder.log_scale

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.encoder.mean.weight.device

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one latent per image or K of them, decode.

        Args:
            images: (B, C, H, W) in [0, 1].
            noise: (B, L) or (B, K, L) standard normal.

        Returns:
            Pixel parameters (B, C, H, W) or (B, K, C, H, W), mean (B, L), log variance (B, L).
        """
        mean, log_variance = self.encoder(images)
        return self.decode_draws(mean, log_variance, noise), mean, log_variance

    def decode_draws(self, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Pixel parameters at z = mean + std * noise, as `forward` returns them."""
        latents = reparameterize(mean, log_variance, noise)
        parameters: Tensor = self.decoder(latents.flatten(0, -2))
        return parameters if noise.ndim == 2 else parameters.unflatten(0, latents.shape[:2])


def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Draw z = mean + exp(log_variance / 2) * noise, a sample of N(mean, exp(log_variance)).

    Source: Kingma & Welling 2014, section 2.4.  Mean and log variance (B, L), noise and result
    (B, L), or (B, K, L) for K draws per image.
    """
    if noise.ndim > mean.ndim:
        mean, log_variance = mean.unsqueeze(1), log_variance.unsqueeze(1)
    return mean + torch.exp(0.5 * log_variance) * noise


def build(config: ModelConfig, *, seed: int) -> VAE:
    """A newly initialised model; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(config)


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VAE(config).parameters())


def count_activations(config: ModelConfig) -> int:
    """Values that the gradient of one more image in a batch needs, without allocating them."""
    with torch.device("meta"):
        model = VAE(config)

    def values(batch: int) -> int:
        kept = list[int]()

        def pack(tensor: Tensor) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.empty(batch, *config.image_shape), torch.empty(batch, config.latent_dim))
        return sum(kept)

    return values(2) - values(1)  # the difference leaves out the weights, which are kept once


def _mlp(widths: Iterable[int], activation: type[nn.Module]) -> Iterator[nn.Module]:
    for width_in, width_out in itertools.pairwise(widths):
        yield nn.Linear(width_in, width_out)
        yield activation()
