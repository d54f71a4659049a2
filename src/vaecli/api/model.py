"""`vaecli.load`, and what it gives: a model that is judged, and written for other programs."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vaecli.api.coder import Coder, Labels
from vaecli.config import Binarize
from vaecli.data.dataset import Dataset, Images, static_binarized
from vaecli.data.pixels import to_uint8
from vaecli.data.reading import Reading
from vaecli.data.splits_and_classes import Split
from vaecli.errors import DataError, EnvironmentFailure, UsageError
from vaecli.evaluation import evaluate as evaluation
from vaecli.evaluation import scores
from vaecli.evaluation.alerts import HeldOutScores
from vaecli.evaluation.evaluate import Evaluation
from vaecli.evaluation.likelihood_estimate import BATCH_SIZE
from vaecli.export import drawn, formats
from vaecli.model.prior import FullMixture
from vaecli.runs import hub
from vaecli.runs.fitted_prior import require_replaceable
from vaecli.runs.load import load_model
from vaecli.system import device as devices
from vaecli.system import extras, files
from vaecli.system.callbacks import Progress, Report, no_progress, no_report
from vaecli.training import images_for_model
from vaecli.training.images_for_model import Choice

Data = str | Path | Tensor | NDArray[Any]
"""Name of a set, path of images, or images (N, C, H, W) themselves."""


class Model(Coder):
    """A trained model.

    Images are (N, C, H, W): uint8 0..255, or floating point in [0, 1]; tensors or arrays.

    Attributes:
        vae: the `torch.nn.Module` itself, in evaluation mode.
        seed: the run's seed, used where none is given.

    Example:
        >>> model = load("digits", device="cpu")
        >>> model.image_shape, model.latent_dim
        ((1, 28, 28), 20)
    """

    def evaluate(
        self,
        data: Data | None = None,
        *,
        labels: Labels = None,
        split: Split | Literal["all"] | None = None,
        limit: int | None = None,
        importance_samples: int | None = None,
        prior: Literal["normal", "gmm"] | None = None,
        binarize: Binarize | None = None,
        batch_size: int = BATCH_SIZE,
        seed: int | None = None,
        skip_bad: bool = False,
        data_dir: str | Path | None = None,
        download: bool = True,
        progress: Progress = no_progress,
        report: Report = warnings.warn,
    ) -> Evaluation:
        """Judge the model as `vaecli eval` does; means over the images are in nats per image.

        Args:
            data: name of a set or path of images, prepared for the model; or images themselves,
                of which floating point ones are rounded to 256 levels; None: the run's own.
            labels: classes of images that are given themselves, as for `encode`.
            split: test, train, validation or all; None: test of the run's own data, else all.
            limit: judge only the first so many.
            importance_samples: K, to estimate the negative log-likelihood as well.
            prior: gmm: the mixture fitted to the training images, which the run then keeps;
                None: the model's own.
            binarize: none, dynamic or static; None: as in training.
            batch_size: images per pass; changes speed and memory, not the numbers.
            seed: of the noise; None: the run's.
            skip_bad: leave unreadable images out.
            data_dir: where named sets and prepared images are kept.
            download: whether the network may be used.
            progress: called with (what, done, total).
            report: called with each warning.

        Raises:
            DataError: the images cannot be read, or do not have the model's shape.
            UsageError: the arguments contradict each other or the model.

        Example:
            >>> model = load("digits", device="cpu")
            >>> found = model.evaluate(model.sample(100), importance_samples=10)
            >>> found.n_images, found.losses.shape
            (100, torch.Size([100]))
            >>> found.nll < found.loss == found.distortion + found.rate == -found.elbo
            True
        """
        choice = Choice(None, split, limit, skip_bad)
        reading = self._reading(data_dir, download, report, progress)
        return self._judge(
            data, labels, choice, reading, binarize, importance_samples, prior, batch_size, seed
        )[0]

    def score(
        self,
        data: Data | None = None,
        *,
        labels: Labels = None,
        latents: bool = False,
        alert_rate: float | None = None,
        score: str = "loss",
        split: Split | Literal["all"] | None = None,
        limit: int | None = None,
        importance_samples: int | None = None,
        prior: Literal["normal", "gmm"] | None = None,
        binarize: Binarize | None = None,
        batch_size: int = BATCH_SIZE,
        seed: int | None = None,
        skip_bad: bool = False,
        data_dir: str | Path | None = None,
        download: bool = True,
        progress: Progress = no_progress,
        report: Report = warnings.warn,
    ) -> dict[str, NDArray[Any]]:
        """Score each image: the columns of `vaecli eval --per-image`, (N,) each.

        `index`; `path`, `label` and `class` where the data has them; `loss`, `distortion` and
        `rate` in nats, to a millionth; with importance samples `nll` and `ess`; with an alert rate
        `p_value` and `verdict`.  What is unknown
        is NaN.  A data frame of pandas or polars takes the dictionary as it is.

        Args:
            data: as for `evaluate`.
            labels: as for `evaluate`.
            latents: also the mean of q(z|x), as `z0`, `z1`, ...
            alert_rate: share of ordinary images that may raise an alert; for runs only.
            score: loss, distortion, complexity or likelihood, by which alerts go.
            split: as for `evaluate`, and so are all that follow.
            limit: score only the first so many.
            importance_samples: K, for `nll` and `ess`.
            prior: normal or gmm; with gmm also `prior` and `loss_normal`.
            binarize: none, dynamic or static; None: as in training.
            batch_size: images per pass.
            seed: of the noise; None: the run's.
            skip_bad: leave unreadable images out.
            data_dir: where named sets and prepared images are kept.
            download: whether the network may be used.
            progress: called with (what, done, total).
            report: called with each warning.

        Example:
            >>> model = load("digits", device="cpu")
            >>> strange = np.random.default_rng(0).integers(0, 256, (1, 1, 28, 28), np.uint8)
            >>> images = np.concatenate([(255 * model.sample(9)).byte(), strange])
            >>> int(model.score(images)["loss"].argmax())
            9
        """
        choice = Choice(None, split, limit, skip_bad)
        reading = self._reading(data_dir, download, report, progress)
        known = None
        if alert_rate is not None:
            drawn = images_for_model.binarization(self._loaded, binarize)
            known = HeldOutScores.of(
                self._loaded, alert_rate, score, drawn, prior, importance_samples
            )
            importance_samples = known.importance_samples
        found, images = self._judge(
            data, labels, choice, reading, binarize, importance_samples, prior, batch_size, seed
        )
        columns = scores.columns(found, images, latents=latents)
        if known is not None:
            columns |= known.judge(found, images).columns()
        return {
            name: np.array([np.nan if value is None else value for value in values])
            for name, values in columns.items()
        }

    def export(
        self,
        output: str | Path,
        format: formats.Format = "onnx",
        *,
        part: Literal["all", "encoder", "decoder", "prior"] = "all",
        tolerance: float | None = formats.TOLERANCE,
        half: bool = False,
        force: bool = False,
        seed: int | None = None,
        data_dir: str | Path | None = None,
    ) -> list[Path]:
        """Write the model for other programs, as `vaecli export` does; returns the files.

        Args:
            output: the folder for onnx and pt2, the file for html and safetensors.
            format: onnx, pt2, safetensors, or html, with draws of a prior that `sample` has kept.
            part: which file of onnx and pt2.
            tolerance: of onnx and pt2: largest difference from torch that passes; None: any.
            half: of safetensors: store fp16.
            force: replace files that exist.
            seed: of html: of its draws of a prior; None: the run's.
            data_dir: of html: where the images for its map are kept; nothing is downloaded.

        Raises:
            UsageError: something is there already, or the arguments contradict each other.
            VaecliError: an exported part differs from torch; nothing was written.
            EnvironmentFailure: the packages for onnx are not installed.

        Example:
            >>> load("digits", device="cpu").export("digits.html", "html")[0].name
            'digits.html'
        """
        if format not in get_args(formats.Format):
            raise UsageError(f"format {format}: not one of {', '.join(get_args(formats.Format))}")
        if (half and format != "safetensors") or (part != "all" and format not in ("onnx", "pt2")):
            name = "half" if half else "part"
            raise UsageError(f"{name} does not go with format {format}", "Leave it out.")
        path, loaded = Path(output), self._loaded
        files.require_new(formats.paths(path, format, part), force=force)
        if format == "onnx":
            needed = ("onnx", "onnxscript") if tolerance is None else None
            extras.require("onnx", "format onnx", needed)
        if format in ("onnx", "pt2"):
            written = formats.in_parts(self.vae, format, part, path, tolerance)
        elif format == "html":
            images = self._own_test_images(data_dir)
            kept = drawn.from_kept(loaded, self._device, seed=seed)
            written = [formats.page(self.vae, path, loaded, images=images, drawn=kept)]
        else:
            written = [formats.safetensors(self.vae, path, half=half)]
        for file in written:
            files.save(file.path, file.data)
        return [file.path for file in written]

    def push(self, address: str, *, private: bool = False, force: bool = False) -> str:
        """Upload the run to the Hugging Face Hub, as `vaecli export --format hub` does.

        Args:
            address: `hf://OWNER/NAME`.
            private: make a private repository.
            force: add a commit to a repository that exists.

        Returns:
            The address of the commit.

        Raises:
            UsageError: the model is not a run, or the repository exists.
            ModelError: the run is unfinished, or names a path of this machine.
            EnvironmentFailure: huggingface_hub is not installed, or the Hub refuses.

        Example:
            >>> load("runs/001-mnist-mlp").push("hf://OWNER/NAME", private=True)  # doctest: +SKIP
            'https://huggingface.co/OWNER/NAME/commit/4b1f...'
        """
        run = self._loaded.run
        if run is None:
            raise UsageError(f"{self._loaded.path}: it is not a run directory", "Load a run.")
        extras.require("hub", "push", ("huggingface_hub",))
        return hub.push(run, address, private=private, replace=force)

    def _judge(
        self,
        data: Data | None,
        labels: Labels,
        choice: Choice,
        reading: Reading,
        binarize: Binarize | None,
        importance_samples: int | None,
        prior: Literal["normal", "gmm"] | None,
        batch_size: int,
        seed: int | None,
    ) -> tuple[Evaluation, Images]:
        """The evaluation, and the images that it is of."""
        for name, number in (("batch_size", batch_size), ("limit", choice.limit)):
            _require_positive(name, number)
        _require_positive("importance_samples", importance_samples)
        binarize = images_for_model.binarization(self._loaded, binarize)
        if data is None or isinstance(data, str | Path):
            if labels is not None:
                raise UsageError("labels are for images in memory", "Leave them out.")
            choice = replace(choice, data=None if data is None else str(data))
            images, _ = images_for_model.load(self._loaded, choice, reading, binarize)
        else:
            images = self._in_memory(data, labels, choice, binarize)
        require_replaceable(self._loaded.config, prior)
        mixture = None
        if prior == "gmm":
            mixture = self._mixture(reading, choice.data if self._loaded.run is None else None)
        found = evaluation.evaluate(
            self.vae,
            images.to(self._device),
            seed=self.seed if seed is None else seed,
            batch_size=batch_size,
            redraw=binarize == "dynamic",
            importance_samples=importance_samples,
            prior=None if mixture is None else FullMixture(mixture),
            progress=reading.progress,
        )
        return found, images

    def _in_memory(
        self, data: Tensor | NDArray[Any], labels: Labels, choice: Choice, binarize: Binarize
    ) -> Images:
        if choice.split is not None:
            raise UsageError(f"split {choice.split}: images in memory have no splits")
        pixels = to_uint8(self._images(data).cpu().numpy())
        places = self._places(labels, len(pixels))
        known = None if places is None else places.cpu().numpy()
        names = dict(enumerate(self.vae.config.classes))
        images = Images(pixels, known, classes=names).first(choice.limit)
        if not len(images):
            raise DataError("images: there are none")
        if binarize == "static":
            images = static_binarized(Dataset("images", images, images)).test
        return images

    def _own_test_images(self, data_dir: str | Path | None) -> Images | None:
        """The run's test images where they are on this machine."""
        if self._loaded.run is None:
            return None
        reading = self._reading(data_dir, False, no_report, no_progress)
        try:
            return images_for_model.load(self._loaded, Choice(), reading)[0]
        except (DataError, EnvironmentFailure, UsageError):
            return None


def load(model: str | Path = "latest", *, device: str = "auto", download: bool = True) -> Model:
    """Load a run directory, a `.safetensors` file, `latest`, `digits`, or `hf://OWNER/NAME`.

    Raises:
        ModelError: there is none, or it is damaged.

    Example:
        >>> load("digits", device="cpu").seed
        0
    """
    loaded = load_model(str(model), download=download)
    return Model(loaded.model.to(devices.resolve(device)), loaded.seed(None), loaded)


def _require_positive(name: str, number: int | None) -> None:
    if number is not None and number < 1:
        raise UsageError(f"{name} must be at least 1, not {number}")
