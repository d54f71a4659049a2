"""`state/source.json`: where the user's own images are, and the options they were read with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from vaecli.data.levels import Levels, MaxValue
from vaecli.system.size_limits import MAX_ORIGIN_BYTES

SetFit = Literal["crop", "pad", "stretch"]
"""How the pictures of a folder are brought to one shape."""

DEFAULT_TEST_FRACTION = 0.1
MAX_LISTED = 100_000
"""Files whose names, sizes and times a run keeps, to say later which of them changed."""


@dataclass(frozen=True)
class Options:
    """How a user's own images are prepared.

    Attributes:
        image_size: height and width they are brought to, one number for a square; None: see
            `fast_decode.ShapeRule`.
        channels: 1 or 3; None for what the images have.
        fit: how pictures of another shape are brought to the size.
        max_value: what counts as white: `auto` (the set decides), `full` (the type's range), or a
            value.
        test_fraction: held-out share where the data has no test split.
        image_column: of Parquet files; None: found by its type.
        label_column: of Parquet files; None: found by its type or name.
        skip_bad: leave unreadable images out instead of refusing the set.
    """

    image_size: tuple[int, int] | int | None = None
    channels: int | None = None
    fit: SetFit = "crop"
    max_value: MaxValue = "auto"
    test_fraction: float = DEFAULT_TEST_FRACTION
    image_column: str | None = None
    label_column: str | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, int):
            object.__setattr__(self, "image_size", (size, size))
        elif isinstance(size, list):  # from JSON
            object.__setattr__(self, "image_size", tuple(size))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width asked for."""
        assert not isinstance(self.image_size, int)
        return self.image_size

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (field, sentence) for everything that is wrong."""
        if self.size is not None and not (
            len(self.size) == 2
            and all(isinstance(side, int) and 1 <= side <= 1024 for side in self.size)
        ):
            yield "image_size", f"must be 1 to 1,024, not {'x'.join(map(str, self.size))}"
        if self.fit not in get_args(SetFit):
            yield "fit", f"must be {', '.join(get_args(SetFit))}, not {self.fit}"
        if self.max_value not in ("auto", "full") and not (
            isinstance(self.max_value, int | float) and 0 < self.max_value < math.inf
        ):
            yield "max_value", f"must be auto, full or a number above 0, not {self.max_value}"
        for name in ("image_column", "label_column"):
            if not isinstance(getattr(self, name), str | None):
                yield name, "must be the name of a column"
        if self.channels not in (None, 1, 3):
            yield "channels", f"must be 1 or 3, not {self.channels}"
        if not (math.isfinite(self.test_fraction) and 0 < self.test_fraction < 1):
            yield "test_fraction", f"must lie between 0 and 1, not {self.test_fraction:g}"


@dataclass(frozen=True)
class Origin:
    """A folder or array file that became a data set.

    Attributes:
        kind: which of the two.
        location: its absolute path.
        options: it was read with.
        files: (relative path, bytes, modification time in ns) of each file, in order of paths.
        skipped: unreadable images left out.
        window: images shuffled together when the set is read from disk; 0 for all of them.
        levels: the range of values found in each sample type, and what counts as white.
    """

    kind: Literal["folder", "array"]
    location: str
    options: Options
    files: tuple[tuple[str, int, int], ...] = field(repr=False)
    skipped: int = 0
    window: int = 0
    levels: tuple[Levels, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The content of source.json; without the files when there are very many."""
        content = {
            "kind": self.kind,
            "location": self.location,
            "options": asdict(self.options),
            "files": [list(entry) for entry in self.files[: MAX_LISTED + 1]],
        }
        too_long = len(self.files) > MAX_LISTED or len(json.dumps(content)) > MAX_ORIGIN_BYTES
        return {**content, "files": []} if too_long else content

    @classmethod
    def from_json(cls, content: Any) -> Origin:
        """Read what `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            options = Options(**content["options"])
            files = tuple(
                (str(path), int(size), int(time)) for path, size, time in content["files"]
            )
            origin = cls(content["kind"], content["location"], options, files)
            sound = origin.kind in ("folder", "array") and isinstance(origin.location, str)
            wrong = not sound or list(options.problems())
        except (TypeError, KeyError, AttributeError, ValueError):
            wrong = True
        if wrong:
            raise ValueError("it does not say where the images are")
        return origin

    def changes(self, now: Origin) -> str:
        """What has changed since, in words; empty if the files do not show it."""
        before = {path: (size, time) for path, size, time in self.files}
        after = {path: (size, time) for path, size, time in now.files}
        if not before:
            return ""
        groups = {
            "added": [path for path in after if path not in before],
            "removed": [path for path in before if path not in after],
            "changed": [path for path in after if path in before and after[path] != before[path]],
        }
        return "; ".join(
            f"{len(paths):,} {'file was' if len(paths) == 1 else 'files were'} {verb}"
            f" ({', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''})"
            for verb, paths in groups.items()
            if paths
        )
