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
from vaecli.model import layers, network, numpy_learned_prior, numpy_prior, operations, prior
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.network import MAX_LOG_STD
from vaecli.model.numpy_vae import Floats, Labels
from vaecli.model.precision import inference


class Encoder(nn.Module):
    """Images to the mean and log variance of q(z|x) = N(mean, diag(exp(log_variance)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = network.of(config)
        assert isinstance(net.heads, operations.Linear)
        self.flat = isinstance(net.encoder[0], operations.Linear)
        self.hidden = layers.build_all(net.encoder)
        self.mean = nn.Linear(net.heads.inputs, net.heads.outputs)
        self.log_variance = nn.Linear(net.heads.inputs, net.heads.outputs)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) in [0, 1] to mean (B, L) and log variance (B, L)."""
        features = self.hidden(images.flatten(1) if self.flat else images, labels)
        # under autocast the layers return bfloat16; the bound is computed in float32
        return self.mean(features).to(images.dtype), self.log_variance(features).to(images.dtype)


class GridEncoder(nn.Module):
    """Images to the features from which, with the decoder's, q(z|x) of each group follows."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = network.of(config)
        assert isinstance(net.heads, tuple)
        self.keeps = [isinstance(operation, operations.Keep) for operation in net.encoder]
        self.hidden = layers.build_all(net.encoder)
        self.posterior = layers.build_all(net.heads)
        self.activation = layers.ACTIVATIONS[config.activation]()
        with torch.no_grad():  # start near the prior
            for head in self.posterior:
                assert isinstance(head, nn.Conv2d)
                assert head.bias is not None
                head.weight.mul_(0.3)
                head.bias.zero_()

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map images (B, C, H, W) in [0, 1] to the features of each group, (B, c, h, w)."""
        features, kept = images, list[Tensor]()
        for layer, keep in zip(self.hidden, self.keeps, strict=True):
            features = layers.run(layer, features, labels)
            if keep:
                kept.append(features)
        return tuple(reversed(kept))

    def group(self, place: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, c, h, w) of a group, from features of both networks."""
        mean, log_std = self.posterior[place](self.activation(features)).chunk(2, 1)
        return mean, 2 * log_std.clamp(max=MAX_LOG_STD)


class Decoder(nn.Module):
    """Latents to the parameters of p(x|z), P numbers per pixel; logits for a Bernoulli.

    `log_scale` is the one learned scale of a likelihood that has one, a number, else None.

    A model that takes classes y has the prior p(z|y) = N(class_mean, diag(exp(class_log_std)^2)).
    The KL does not change when z is shifted and scaled, so this is the model with N(0, I) whose
    decoder begins with the shift and scale of the class; both start at N(0, I).  What is called a
    latent everywhere is what comes before them, and N(0, I) is its prior in every class.
    """

    log_scale: nn.Parameter | None
    class_mean: nn.Parameter | None
    class_log_std: nn.Parameter | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        net = network.of(config)
        self.shape = config.output_shape
        self.hidden = layers.build_all(net.decoder)
        output = layers.build(net.output)
        assert isinstance(output, nn.Linear | layers.Output)
        self.output = output
        if isinstance(self.hidden, layers.Ladder):
            with torch.no_grad():  # the bias alone gives the mean image
                output.convolution.weight.mul_(0.1)  # type: ignore[operator, union-attr]
        scale = nn.Parameter(torch.zeros(())) if net.scaled else None
        self.register_parameter("log_scale", scale)
        tables = {
            name: nn.Parameter(torch.zeros(shape)) for name, shape in net.class_shapes().items()
        }
        self.register_parameter("class_mean", tables.get("decoder.class_mean"))
        self.register_parameter("class_log_std", tables.get("decoder.class_log_std"))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, L) to pixel parameters (B, P, H, W)."""
        dtype = latents.dtype
        if self.class_mean is not None and self.class_log_std is not None:
            mean, log_std = (
                layers.of_class(table, labels) for table in (self.class_mean, self.class_log_std)
            )
            latents = mean + log_std.exp() * latents
        return self.parameters_of(self.hidden(latents, labels), dtype)

    def parameters_of(self, features: Tensor, dtype: torch.dtype) -> Tensor:
        """The last layer: features to pixel parameters (B, P, H, W)."""
        output: Tensor = self.output(features).to(dtype)
        return output.view(-1, *self.shape)


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114)."""

    encoder: Any
    """An `Encoder`, or a `GridEncoder`."""
    prior: prior.Learned | None
    """None where it is N(0, I)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = (GridEncoder if config.arch == "grid" else Encoder)(config)
        self.decoder = Decoder(config)
        self.prior = prior.learned(config)

    @property
    def likelihood(self) -> tuple[Likelihood, Tensor | None]:
        """Name and learned log scale of p(x|z), as the functions of `bounds.py` take them."""
        return self.config.likelihood, self.decoder.log_scale

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.parameters()).device

    def mean_pixels(self, output: Tensor) -> Tensor:
        """E[x|z] of each pixel for decoder output (..., P, H, W), in [0, 1]."""
        name, log_scale = self.likelihood
        return LIKELIHOODS[name].mean(output, log_scale).clamp(0, 1)

    def mean_image(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[x|z] for latents (B, L), as (B, C, H, W) in [0, 1]."""
        return self.mean_pixels(self.decoder(latents, labels))

    def weights(self) -> dict[str, NDArray[Any]]:
        """Its parameters by name, on the host; of the model itself where it lies there."""
        return arrays(self.state_dict())

    def forward(
        self, images: Tensor, noise: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode, draw one latent per image or K of them, decode.

        Args:
            images: (B, C, H, W) in [0, 1].
            noise: (B, L) or (B, K, L) standard normal.
            labels: classes of the images, (B,) int64, where the model takes them; here and below.

        Returns:
            Pixel parameters (B, P, H, W) or (B, K, P, H, W); mean and log variance (B, L), for a
            grid of the shape of `noise`.
        """
        return self.decode_draws(self.encoder(images, labels), noise, labels)

    def decode_draws(
        self, evidence: tuple[Tensor, ...], noise: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, from what the encoder gives: mean and log variance, or a grid's features.

        For a grid, mean and log variance are those of each group given the groups above it, which
        are drawn with the same noise: both have the shape of `noise`.
        """
        if labels is not None and noise.ndim == 3:
            labels = labels.repeat_interleave(noise.shape[1])
        if isinstance(self.encoder, Encoder):
            mean, log_variance = evidence
            latents = reparameterize(mean, log_variance, noise).flatten(0, -2)
            parameters: Tensor = self.decoder(latents, labels)
        else:
            rows = noise.flatten(0, -2)
            features, mean, log_variance = self._climb_down(evidence, rows, labels)
            parameters = self.decoder.parameters_of(features, noise.dtype)
            mean, log_variance = mean.view_as(noise), log_variance.view_as(noise)
        if noise.ndim == 3:
            parameters = parameters.unflatten(0, noise.shape[:2])
        return parameters, mean, log_variance

    def encode(
        self, images: Tensor, noise: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each (B, L).

        For a grid, each group given the groups above it: those drawn with `noise` (B, L), or their
        means.  No bound uses the means.
        """
        evidence = self.encoder(images, labels)
        if isinstance(self.encoder, Encoder):
            mean, log_variance = evidence
            return mean, log_variance
        if noise is None:
            noise = images.new_zeros(images.shape[0], self.config.latents)
        return self._climb_down(evidence, noise, labels)[1:]

    def _climb_down(
        self, evidence: tuple[Tensor, ...], noise: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder's features, and mean and log variance (B, L), where the latents are drawn.

        `noise` has as many rows as the evidence, or K for each of them.
        """
        encoder, ladder = self.encoder, self.decoder.hidden
        assert isinstance(encoder, GridEncoder)
        assert isinstance(ladder, layers.Ladder)
        means, log_variances = list[Tensor](), list[Tensor]()

        def drawn(group: layers.Inject, features: Tensor) -> Tensor:
            found = evidence[len(means)]
            if found.shape[0] != noise.shape[0]:
                found = found.repeat_interleave(noise.shape[0] // found.shape[0], 0)
            mean, log_variance = encoder.group(len(means), features + found)
            mean, log_variance = mean.to(noise.dtype), log_variance.to(noise.dtype)
            means.append(mean.flatten(1))
            log_variances.append(log_variance.flatten(1))
            return reparameterize(mean, log_variance, group.of(noise))

        features = ladder.walk(noise, drawn, labels)
        return features, torch.cat(means, 1), torch.cat(log_variances, 1)


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

    @property
    def prior(self) -> numpy_prior.Prior:
        """Of the model as it is now."""
        return numpy_learned_prior.of(self.config, self._model.weights())

    def encode(
        self, images: Floats, noise: Floats | None = None, labels: Labels | None = None
    ) -> tuple[Floats, Floats]:
        """As `VAE.encode`, each (B, L)."""
        with inference():
            draws = None if noise is None else self._tensor(noise)
            known = self._labels(labels)
            mean, log_variance = self._model.encode(self._tensor(images), draws, known)
            return _array(mean), _array(log_variance)

    def decode(self, latents: Floats, labels: Labels | None = None) -> Floats:
        """Latents (B, L) to pixel parameters of p(x|z), (B, C, H, W)."""
        with inference():
            return _array(self._model.decoder(self._tensor(latents), self._labels(labels)))

    def _labels(self, labels: Labels | None) -> Tensor | None:
        return None if labels is None else torch.from_numpy(labels).to(self._model.device)

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
