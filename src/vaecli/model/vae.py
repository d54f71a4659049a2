"""Encoder, decoder and the reparameterization between them.

Axes: B batch, C channels, H height, W width, D = C*H*W pixels, L latent dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vaecli.config import Likelihood, ModelConfig
from vaecli.model import layers, network
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.numpy_vae import Floats
from vaecli.model.precision import inference


class Encoder(nn.Module):
    """Images to the mean and log variance of q(z|x) = N(mean, diag(exp(log_variance)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = network.of(config)
        self.flat = isinstance(net.encoder[0], network.Linear)
        self.hidden = layers.build_all(net.encoder)
        self.mean = nn.Linear(net.heads.inputs, net.heads.outputs)
        self.log_variance = nn.Linear(net.heads.inputs, net.heads.outputs)

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
        net = network.of(config)
        self.image_shape = config.image_shape
        self.hidden = layers.build_all(net.decoder)
        output = layers.build(net.output)
        assert isinstance(output, nn.Linear | layers.Output)
        self.output = output
        scale = nn.Parameter(torch.zeros(())) if net.scaled else None
        self.register_parameter("log_scale", scale)

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
        return next(self.parameters()).device

    def mean_pixels(self, output: Tensor) -> Tensor:
        """E[x|z] of each pixel for decoder output of any shape, in [0, 1]."""
        name, log_scale = self.likelihood
        return LIKELIHOODS[name].mean(output, log_scale).clamp(0, 1)

    def mean_image(self, latents: Tensor) -> Tensor:
        """E[x|z] for latents (B, L), as (B, C, H, W) in [0, 1]."""
        return self.mean_pixels(self.decoder(latents))

    def weights(self) -> dict[str, NDArray[Any]]:
        """Its parameters by name, on the host; of the model itself where it lies there."""
        return arrays(self.state_dict())

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


def as_float(pixels: Tensor) -> Tensor:
    """Pixels uint8 0..255 as float32 in [0, 1], same shape."""
    return pixels.to(torch.float32).div_(255)


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors by name as numpy arrays, on the host."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def with_weights(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> VAE:
    """A model of trained weights, on the CPU and in evaluation mode."""
    with torch.device("meta"):
        model = VAE(config)
    tensors = {name: torch.from_numpy(values) for name, values in weights.items()}
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(True).eval()


class TorchRunner:
    """A model as the pictures need it, arrays in and out; see `NumpyVAE`, which it stands beside.

    Args:
        model: on any device.
    """

    workers: int | None = 1  # `inference` changes settings of the whole process

    def __init__(self, model: VAE) -> None:
        self.config, self._model = model.config, model

    @property
    def log_scale(self) -> float | None:
        """The learned log scale of p(x|z), for a likelihood that has one."""
        scale = self._model.decoder.log_scale
        return None if scale is None else float(scale.detach())

    def encode(self, images: Floats) -> tuple[Floats, Floats]:
        """Images (B, C, H, W) in [0, 1] to mean and log variance of q(z|x), each (B, L)."""
        with inference():
            mean, log_variance = self._model.encoder(self._tensor(images))
            return _array(mean), _array(log_variance)

    def decode(self, latents: Floats) -> Floats:
        """Latents (B, L) to pixel parameters of p(x|z), (B, C, H, W)."""
        with inference():
            return _array(self._model.decoder(self._tensor(latents)))

    def _tensor(self, values: Floats) -> Tensor:
        parameter = next(self._model.parameters())
        return torch.from_numpy(values).to(parameter.device, parameter.dtype)


def _array(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()


def build(config: ModelConfig, *, seed: int) -> VAE:
    """A newly initialised model; the global random state is not changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(config)


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
