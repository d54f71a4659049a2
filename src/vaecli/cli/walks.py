"""Walks through the latent space, for `vaecli sample`: interpolation, traversal, manifold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vaecli.cli.inputs import load_images
from vaecli.cli.options import Common
from vaecli.errors import UsageError

if TYPE_CHECKING:
    from vaecli.data.dataset import Images
    from vaecli.data.labels import Labels
    from vaecli.data.pixels import Bytes
    from vaecli.evaluation.generation import Runner
    from vaecli.evaluation.latent_space import Dimensions
    from vaecli.runs.load import LoadedModel

STEPS = 8
TRAVERSAL_STEPS = 13  # half a standard deviation each
MANIFOLD_SIDE = 20
WIDEST = 16
TRAVERSED = 32
"""Latents of a grid that are moved: the most active of its thousand and more."""


@dataclass(frozen=True)
class Images2D:
    """Decoded images, and the picture that shows them.

    Attributes:
        pixels: (N, C, H, W) uint8.
        picture: (C', H', W') uint8.
        columns: images in a row of it.
        labels: (N,) places of the classes of a model that was given several.
    """

    pixels: Bytes
    picture: Bytes
    columns: int
    labels: Labels | None = None


@dataclass(frozen=True)
class Walker:
    """A model, and the images that walks are based on.

    Attributes:
        common: options.
        loaded: the model.
        runner: computes it.
        data: the name of another set than the run's own, or None.
    """

    common: Common
    loaded: LoadedModel
    runner: Runner
    data: str | None

    def interpolate(
        self,
        start: str,
        end: str,
        *,
        steps: int | None,
        path: Literal["spherical", "linear"],
        columns: int | None,
    ) -> Images2D:
        """From the image `start` to the image `end`, each a file or a test index."""
        from vaecli.data.dataset import Images
        from vaecli.evaluation import generation, latent_space
        from vaecli.pictures import sheets

        ends = np.concatenate([self._image(name, "--interpolate") for name in (start, end)])
        means = latent_space.embed(self.runner, Images(ends)).mean
        steps, prior = steps or STEPS, self.runner.prior
        latents = latent_space.interpolate(means[0], means[1], steps, path, prior)
        pixels = generation.decode(self.runner, latents)
        columns = columns or min(len(pixels), WIDEST)
        return Images2D(pixels, sheets.interpolation(pixels, ends, columns), columns)

    def traverse(self, *, around: str | None, steps: int | None) -> Images2D:
        """A row per latent dimension, that of the largest KL first; of a grid the first few."""
        from vaecli.data.dataset import Images
        from vaecli.evaluation import generation, latent_space
        from vaecli.pictures import sheets

        steps = steps or TRAVERSAL_STEPS
        dimensions = self._dimensions()
        moments = self.runner.prior.moments
        centre = moments[0]
        if around is not None:
            image = self._image(around, "--around")
            centre = latent_space.embed(self.runner, Images(image)).mean[0]
        moved = dimensions.by_kl
        if self.loaded.config.arch == "grid":
            moved = moved[:TRAVERSED]
        latents = latent_space.traverse(centre, moved, steps, moments)
        pixels = generation.decode(self.runner, latents)
        return Images2D(pixels, sheets.traversal(pixels, dimensions, steps), steps)

    def manifold(self, *, side: int | None) -> Images2D:
        """The plane of the two most active dimensions; the plane itself where there are two."""
        from vaecli.evaluation import generation, latent_space
        from vaecli.pictures import sheets

        side, latent_dim = side or MANIFOLD_SIDE, self.loaded.config.latents
        if latent_dim <= 2:
            axes, names = list(range(latent_dim)), [f"z{axis}" for axis in range(latent_dim)]
        else:
            dimensions = self._dimensions()
            axes = dimensions.by_kl[:2]
            names = [f"z{axis} (KL {dimensions.kl[axis]:.2f} nats)" for axis in axes]
        vertical = axes[1] if len(axes) > 1 else None
        latents = latent_space.manifold(self.runner.prior.moments, axes[0], vertical, side)
        pixels = generation.decode(self.runner, latents)
        title = names[1] if len(names) > 1 else None
        return Images2D(pixels, sheets.manifold(pixels, side, names[0], title), side)

    def _dimensions(self) -> Dimensions:
        """As `vaecli eval` finds them, but for the draws of dynamic binarization."""
        from vaecli.evaluation import latent_space

        seed = self.loaded.seed(None) if self.loaded.binarize == "dynamic" else None
        embedding = latent_space.embed(self.runner, self._of_class(self._test_images()), seed)
        return latent_space.dimensions(embedding, self.runner.prior)

    def _of_class(self, images: Images) -> Images:
        """Those of the class that --label names; all of a model that takes no classes."""
        if self.loaded.label is None or images.labels is None:
            return images
        names = {label: images.class_name(label) for label in np.unique(images.labels).tolist()}
        labels = [label for label, name in names.items() if name == self.loaded.label]
        chosen = np.flatnonzero(np.isin(images.labels, labels))
        return images.take(chosen) if len(chosen) else images

    def _image(self, name: str, option: str) -> Bytes:
        """An image file, or the test image of that index; (1, C, H, W) uint8."""
        if not name.isdecimal() or Path(name).exists():
            from vaecli.data.picture_for_model import read_picture

            pixels, notes = read_picture(self.loaded.config, Path(name), name=name)
            for note in notes:
                self.common.terminal.note(note)
            return pixels[None]
        images, index = self._test_images(), int(name)
        if index >= len(images):
            raise UsageError(
                f"{option} {name}: there are {len(images):,} test images, counted from 0",
                "Give a smaller index, or an image file.",
            )
        return next(images[index : index + 1].parts())

    def _test_images(self) -> Images:
        binarize = self.loaded.binarize
        return load_images(self.common, self.loaded, self.data, "test", None, binarize)[0]
