"""A prior by flow matching: a network that carries noise to latents.

Latents z that were drawn for training images and noise e from N(0, I) are joined by lines
z_t = (1 - t) e + t z.  The network learns the mean velocity E[z - e | z_t, t]; a draw starts at
noise and follows it from t = 0 to 1, a little further away from where an earlier state of the same
network would have gone: what both do not know well is what they differ in.  The density of draws,
which would need the divergence of the velocity on the way, is not computed.

Source: Lipman et al. 2023, https://arxiv.org/abs/2210.02747; of the latents of an autoencoder, as
in Rombach et al. 2022, https://arxiv.org/abs/2112.10752; guided by a bad version of itself, as in
Karras et al. 2024, https://arxiv.org/abs/2406.02507

Axes: B batch, L latents, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vaecli import philox
from vaecli.config import ModelConfig
from vaecli.model.precision import inference
from vaecli.system.callbacks import Progress, no_progress

Shape = tuple[int, int, int]
Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

WIDTH, BLOCKS, HEADS = 128, 6, 4
ATTENTION_EVERY = 3
"""Every third block is followed by one in which all positions see each other."""
FREQUENCIES, HIGHEST = 32, 200.0
"""Waves by which the network is told the time, and the fastest of them."""
STEPS, CROWDING = 20, 1.5
"""Of Heun's method, for a draw; and the power by which they become shorter towards the end, where
narrow posteriors need it: the spread of a Gaussian a twentieth as wide as the whole comes out
within one percent, of equal steps 29 percent too small."""
BATCH_POSITIONS, MOST_BATCH = 1 << 14, 250
"""Draws are computed so many at once that they have so many positions together, at most."""
GUIDANCE = 2.0
"""Draws move with the velocity of the earlier state, plus so many times what the later adds."""
VERSION = 2
"""Of the network: the same weights mean something else in another."""


def groups(config: ModelConfig) -> list[Shape]:
    """Latents as small images (C, H, W), in their order: of each level, or one with one position.

    Example:
        >>> groups(ModelConfig(image_shape=(3, 32, 32), arch="grid", latent_dim=16))
        [(16, 4, 4), (16, 8, 8)]
        >>> groups(ModelConfig(image_shape=(1, 28, 28)))
        [(20, 1, 1)]
    """
    if config.arch != "grid":
        return [(config.latent_dim, 1, 1)]
    return [(config.latent_dim, *size) for size in reversed(config.levels[1:])]


class Block(nn.Module):
    """x + convolution(silu(convolution(x))), whose input the time scales and shifts.

    Args:
        size: of the first kernel.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.first = nn.Conv2d(WIDTH, WIDTH, size, padding=size // 2)
        self.last = nn.Conv2d(WIDTH, WIDTH, 1)
        _zero(self.modulation, self.last)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """Map features (B, C, H, W), at times coded as (B, C), to the same shape."""
        changed = self.first(_modulated(features, self.modulation(time)))
        result: Tensor = features + self.last(functional.silu(changed))
        return result


class Attention(nn.Module):
    """Self-attention of all positions, as a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = nn.Linear(WIDTH, 2 * WIDTH)
        self.first = nn.Conv2d(WIDTH, 3 * WIDTH, 1, bias=False)
        self.last = nn.Conv2d(WIDTH, WIDTH, 1)
        _zero(self.modulation, self.last)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """As `Block.forward`."""
        changed = self.first(_modulated(features, self.modulation(time)))
        heads = changed.flatten(2).unflatten(1, (3, HEADS, -1)).transpose(3, 4)
        # contiguous, or all scores of positions by positions are kept
        seen = functional.scaled_dot_product_attention(*heads.contiguous().unbind(1))
        result: Tensor = features + self.last(seen.transpose(2, 3).reshape(features.shape))
        return result


class VelocityField(nn.Module):
    """The velocity of latents between noise and data.

    All groups are enlarged to the size of the finest one, and computed on together.

    Args:
        shapes: of the groups of latents, as `groups` gives them, the finest last.
        classes: how many classes there are; 0 for a model without.

    Example:
        >>> field = VelocityField([(2, 1, 1)], classes=0)
        >>> field(torch.zeros(3, 2), torch.zeros(3), None).shape
        torch.Size([3, 2])
    """

    frequencies: Tensor

    def __init__(self, shapes: Sequence[Shape], classes: int) -> None:
        super().__init__()
        self.shapes = list(shapes)
        self.size = height, width = shapes[-1][1:]
        ratios = (max(height / rows, width / columns) for _, rows, columns in shapes)
        self.factors = [1 << (math.ceil(ratio) - 1).bit_length() for ratio in ratios]
        kernel = 1 if self.size == (1, 1) else 3
        channels = [count for count, *_ in shapes]
        self.inputs = nn.ModuleList(
            nn.Conv2d(count, WIDTH, kernel, padding=kernel // 2) for count in channels
        )
        self.position = nn.Parameter(0.02 * torch.randn(WIDTH, *self.size))
        self.time = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)
        )
        self.of_class = nn.Embedding(classes, WIDTH) if classes else None
        self.blocks = nn.ModuleList(self._blocks(kernel))
        self.outputs = nn.ModuleList(
            nn.Conv2d(WIDTH, count, kernel, padding=kernel // 2) for count in channels
        )
        _zero(*self.outputs)
        waves = torch.linspace(0, math.log(HIGHEST), FREQUENCIES, device="cpu").exp()
        self.register_buffer("frequencies", waves, persistent=False)

    def _blocks(self, kernel: int) -> Iterator[nn.Module]:
        for place in range(1, BLOCKS + 1):
            yield Block(kernel)
            if place % ATTENTION_EVERY == 0 and kernel > 1:
                yield Attention()

    def forward(self, latents: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        """Velocities (B, L) of latents (B, L) at times (B,), of the classes (B,) if there are any.

        Latents are to have a standard deviation of about 1.
        """
        angles = time[:, None] * self.frequencies
        code = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        if self.of_class is not None:
            code = code + self.of_class(labels)
        code = functional.silu(code)
        parts = latents.split([math.prod(shape) for shape in self.shapes], 1)
        features = self.position.expand(len(latents), -1, -1, -1)
        height, width = self.size
        for part, shape, factor, enter in zip(
            parts, self.shapes, self.factors, self.inputs, strict=True
        ):
            entered = functional.interpolate(enter(part.unflatten(1, shape)), scale_factor=factor)
            features = features + entered[:, :, :height, :width]
        for block in self.blocks:
            features = block(features, code)
        features = functional.group_norm(features, 1)
        found = [
            leave(functional.avg_pool2d(features, factor, ceil_mode=True)).flatten(1)
            for factor, leave in zip(self.factors, self.outputs, strict=True)
        ]
        return torch.cat(found, 1).to(latents.dtype)


class FlowMatching:
    """Draws of latents by a velocity field.

    Args:
        field: it, on the device where draws are to be computed.
        guide: an earlier state of it, from which draws keep away; None where there is none.
        centre: mean of each latent, (L,): the field knows them less this...
        scale: ...and divided by this.
    """

    name = "flow-matching"

    def __init__(
        self, field: VelocityField, guide: VelocityField | None, centre: Floats, scale: Floats
    ) -> None:
        self.field, self.guide, self.centre, self.scale = field, guide, centre, scale

    def to(self, device: torch.device) -> FlowMatching:
        """The same on another device."""
        guide = None if self.guide is None else self.guide.to(device)
        return FlowMatching(self.field.to(device), guide, self.centre, self.scale)

    @inference()
    def draw(
        self,
        count: int,
        *,
        seed: int,
        labels: Labels | None = None,
        progress: Progress = no_progress,
    ) -> Floats:
        """Draw latents (count, L), of the classes (count,) where the field was taught them.

        The noise that a draw begins with does not depend on `count`.
        """
        size = max(1, min(MOST_BATCH, BATCH_POSITIONS // math.prod(self.field.size)))
        found = np.empty((count, len(self.centre)), np.float32)
        device = self.field.position.device
        for start in range(0, count, size):
            progress("drawing latents", start, count)
            rows = slice(start, min(start + size, count))
            noise = philox.normal(
                len(self.centre), rows.start, rows.stop, seed=seed, purpose="samples"
            )
            known = None if labels is None else torch.from_numpy(labels[rows]).to(device)

            def velocity(latents: Tensor, time: Tensor, known: Tensor | None = known) -> Tensor:
                given = latents, time.expand(len(latents)), known
                found: Tensor = self.field(*given)
                if self.guide is not None:
                    found = torch.lerp(self.guide(*given), found, GUIDANCE)
                return found

            end = integrate(velocity, torch.from_numpy(noise).to(device), STEPS)
            found[rows] = self.centre + self.scale * end.cpu().numpy()
        progress("drawing latents", count, count)
        return found


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Where a point is at time 1 that is at `start` at time 0, by Heun's method.

    The last step is one of Euler's: at time 1 itself nothing was learned.

    Source: Karras et al. 2022, algorithm 1, https://arxiv.org/abs/2206.00364

    Args:
        velocity: of points at a time, which is a tensor of one number.
        start: points.
        steps: how many, shorter and shorter.

    Example:
        A point that runs away from 0, to e:

        >>> found = integrate(lambda point, _: point, torch.ones(1), 1000)
        >>> bool((found - math.e).abs() < 0.01)
        True
    """
    times = 1 - torch.linspace(1, 0, steps + 1, device=start.device) ** CROWDING
    point = start
    for step in range(steps):
        now, then = times[step], times[step + 1]
        slope = velocity(point, now)
        if step < steps - 1:
            slope = (slope + velocity(point + (then - now) * slope, then)) / 2
        point = point + (then - now) * slope
    return point


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def _modulated(features: Tensor, modulation: Tensor) -> Tensor:
    """Features (B, C, H, W) normalised for each image, scaled and shifted by (B, 2C)."""
    scale, shift = modulation[:, :, None, None].chunk(2, 1)
    return functional.group_norm(features, 1) * (1 + scale) + shift
