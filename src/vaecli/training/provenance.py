"""Which images a run was trained on, and where they are now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vaecli.config import ModelConfig
from vaecli.data import catalogue, levels
from vaecli.data.dataset import Dataset
from vaecli.data.origin import Options, Origin
from vaecli.data.own.sources import Preparation
from vaecli.data.picture_fit import Fitting
from vaecli.errors import DataError, ModelError
from vaecli.runs import directory
from vaecli.training.settings import Settings


@dataclass(frozen=True)
class Provenance:
    """Which images a run was trained on.

    Attributes:
        run: the run.
        origin: where its own images lay when it was started; None for a named set, and where the
            run does not say.
    """

    run: directory.Run
    origin: Origin | None

    @classmethod
    def of(cls, run: directory.Run) -> Provenance:
        """Read what a run says of its images.

        Raises:
            ModelError: that is damaged.
        """
        content = None if run.config.data.kind == "named" else run.read_origin()
        try:
            return cls(run, None if content is None else Origin.from_json(content))
        except ValueError as error:
            raise ModelError(
                f"{run.path / directory.STATE / directory.ORIGIN}: {error}", "Start a new run."
            ) from None

    def whereabouts(
        self, name: str | None = None, settings: Settings | None = None
    ) -> tuple[str, Options]:
        """The name or path of the images, and how they were asked for.

        Args:
            name: where the user's own images are now; None: where they were.
            settings: what was asked for besides.

        Raises:
            DataError: they are no longer there, or the run does not say where they are.
            ModelError: no named set is called so.
        """
        config, origin = self.run.config.data, self.origin
        given = {} if settings is None else settings.given(Options)
        if config.kind == "named":
            if config.name not in catalogue.NAMES:  # never a path: a stranger wrote it
                raise ModelError(
                    f"{self.run.path / directory.CONFIG}: data.name: no data set is called"
                    f" {config.name!r:.80}",
                    f"Name the images with --data; vaecli knows {', '.join(catalogue.NAMES)}.",
                )
            return config.name, Options(**given)
        name = name or catalogue.AUTO
        if name == catalogue.AUTO:
            if origin is None:
                raise DataError(
                    f"{self.run.path}: it does not say where the {config.kind} {config.name} is",
                    "Name it with --data.",
                )
            name = origin.location
            if not catalogue.is_there(name):
                raise DataError(
                    f"{self.run.path}: its images are no longer at {name}",
                    "Name the place where they are now with --data.",
                )
        options = Options() if origin is None else origin.options
        model = self.run.config.model
        if not model.has_ranges:  # of a version that knew the full range only
            channels = options.channels or model.image_shape[0]
            options = replace(options, max_value="full", channels=channels)
        return name, replace(options, **given)

    def is_own(self, name: str | None) -> bool:
        """Whether `name` means the images the run was trained on; None always does."""
        if name is None or self.run.config.data.kind == "named":
            return name in (None, self.run.config.data.name)
        return self.origin is not None and catalogue.place_of(name) == self.origin.location

    def is_recorded(self, dataset: Dataset) -> bool:
        """Whether the run says of these images what it would say of them now."""
        now = dataset.origin
        return now is None or (self.origin is not None and self.origin.to_json() == now.to_json())

    def is_asked_alike(self, dataset: Dataset) -> bool:
        """Whether these images were asked for as the run's: under one name, or at one place."""
        origin, now = self.origin, dataset.origin
        if origin is None or now is None:
            return origin is now and self.run.config.data.name == dataset.name
        return (origin.location, origin.options) == (now.location, now.options)

    def require_unchanged(self, dataset: Dataset) -> None:
        """ModelError when the images are not those the run was started with."""
        then = self.run.config.data
        if dataset.fingerprint() == then.fingerprint:
            return
        n_train, n_test = len(dataset.train), len(dataset.test)
        what = (
            f"{then.n_train:,} training and {then.n_test:,} test images then,"
            f" {n_train:,} and {n_test:,} now"
        )
        if (then.n_train, then.n_test) == (n_train, n_test):
            what = f"as many images ({n_train:,} and {n_test:,}), with other content"
        if self.origin is not None and dataset.origin is not None:
            what = self.origin.changes(dataset.origin) or what
        raise ModelError(
            f"{self.run.path}: the data {dataset.name} changed since this run was started: {what}",
            "Restore the images it was started with, or start a new run.",
        )


def is_prepared_for(model: ModelConfig, dataset: Dataset) -> bool:
    """Whether a run's own images came out as those its model was trained on; not if they changed.

    The images of today may have another colour or range than those the run was started with.
    """
    if dataset.origin is None or not model.has_ranges:
        return True
    run = levels.as_settings(dataset.origin.levels)
    same_range = all(getattr(model, name) == value for name, value in run.items())
    return same_range and dataset.image_shape == model.image_shape


def preparation(model: ModelConfig, run: directory.Run | None, *, whole: bool) -> Preparation:
    """How other images are brought to a model's shape: as the run's own, where it has a folder.

    Their classes are matched by name with those of the run.
    """
    classes = model.classes if run is None else run.config.data.classes
    fitting = Fitting(fit=model.fit)
    numbered = run is not None and run.config.data.kind == "named"
    if run is None or numbered:
        fitting = Fitting(model.border, model.digits, "auto", model.fit, "auto")
    return Preparation(model.image_shape, fitting, levels.of_model(model), whole, classes, numbered)
