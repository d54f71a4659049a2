"""The state a run resumes from: generations of tensors, and the manifest that commits them.

A generation is written first, then `manifest.json` is replaced: that rename is the commit.
The two newest generations are kept, so a damaged one costs progress, not the run.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaecli.config import FORMAT, refuse_newer
from vaecli.errors import EnvironmentFailure, ModelError
from vaecli.runs import weights
from vaecli.runs.directory import MANIFEST, STATE, Run
from vaecli.system import files
from vaecli.system.callbacks import Report, no_report
from vaecli.system.size_limits import MAX_CONFIG_BYTES
from vaecli.system.strict_json import canonical_json, parse_json

KEPT = 2
ROOM = KEPT + 1
"""Generations there must be room for: those that are kept, and the one being written."""
_LATER_DATA_FIELDS = ("classes", "n_validation")
"""Fields of DataConfig that older runs do not have: empty, they are no part of the identity."""
_NAME = re.compile(r"generation-(\d{6,12})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """One committed state: tensors, and progress as plain JSON values."""

    tensors: weights.Arrays
    info: dict[str, Any]


class Checkpoints:
    """The `state/` folder of a run.

    Args:
        folder: its path.
        identity: hash of configuration and data; the state of another run is refused.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self._identity = identity
        self._generations: list[dict[str, Any]] = []
        self._number = 0
        self.finished = False
        """Whether training has ended and every file that follows from it is written."""
        self._read_manifest()

    @classmethod
    def of(cls, run: Run) -> Checkpoints:
        """The state of `run`.

        Raises:
            ModelError: its manifest is damaged, or of another configuration or other data.
        """
        identity: dict[str, Any] = {**run.config.to_json(), "environment": None}
        identity["data"] = {
            name: value
            for name, value in identity["data"].items()
            if value or name not in _LATER_DATA_FIELDS
        }
        if run.config.training.schedule == "constant":  # such a run may be given more epochs
            identity["training"] = {**identity["training"], "epochs": None}
        return cls(run.path / STATE, files.sha256(canonical_json(identity).encode()))

    def require_room(self, state_bytes: int) -> None:
        """Check, before any training, that the run can be written and its disk has room.

        Args:
            state_bytes: size of one generation.

        Raises:
            EnvironmentFailure: there is too little free space.
            OSError: nothing can be written.
        """
        run = self.folder.parent
        for folder in (run, self.folder):
            files.probe(folder)
        needed = ROOM * state_bytes - self.size
        free = files.free_space(self.folder)
        if free < needed:
            raise EnvironmentFailure(
                f"{run}: {free / 1e6:,.1f} MB of disk space are free, and"
                f" {needed / 1e6:,.1f} MB are needed",
                "Free some space, or write elsewhere with -o.",
            )

    def commit(self, tensors: weights.Arrays, info: dict[str, Any]) -> None:
        """Make this state the newest, durably."""
        data = weights.encode(tensors, info)
        name = f"generation-{self._number + 1:06d}.safetensors"
        files.make_folder(self.folder)
        files.atomic_write(self.folder / name, data)
        entry = {"file": name, "size": len(data), "sha256": files.sha256(data)}
        self._write_manifest([entry, *self._generations[: KEPT - 1]], finished=False)
        self._number += 1
        self.remove_leftovers()

    def finish(self, *, finished: bool = True) -> None:
        """Record whether the run is finished."""
        self._write_manifest(self._generations, finished=finished)

    @property
    def size(self) -> int:
        """Bytes of the committed generations."""
        return sum(entry["size"] for entry in self._generations)

    def newest(self, expected: weights.Shapes, warn: Report = no_report) -> Checkpoint | None:
        """The newest intact state, or None when nothing was committed.

        Args:
            expected: dtype and shape of every tensor the state must hold.
            warn: called when a damaged generation is skipped.

        Raises:
            ModelError: every committed generation is damaged.
        """
        reason = ""
        largest = weights.largest_file(expected)
        for index, entry in enumerate(self._generations):
            path = self.folder / entry["file"]
            try:
                data = files.read_capped(path, min(entry["size"], largest))
                if files.sha256(data) != entry["sha256"]:
                    raise ValueError("it does not match the SHA-256 in the manifest")
                file = io.BytesIO(data)
                header = weights.read_header(file)
                tensors = weights.read_tensors(file, header, expected)
                # the next commit must drop the damaged generation, not the intact one
                self._generations = self._generations[index:]
                return Checkpoint(tensors, header.info)
            except (OSError, ValueError) as error:
                reason = f"{path}: {error}"
                if index + 1 < len(self._generations):
                    warn(f"{reason}; falling back to the generation before it")
        if reason:
            raise ModelError(
                f"no state to resume from: {reason}",
                "Start again with another -o, or with --force.",
            )
        return None

    def remove_leftovers(self) -> None:
        """Remove generations the manifest does not name, and temporary files."""
        if not self.folder.is_dir():
            return
        kept = {entry["file"] for entry in self._generations}
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in kept:
                files.discard(path)
        files.remove_leftovers(self.folder)

    def _write_manifest(self, generations: list[dict[str, Any]], *, finished: bool) -> None:
        manifest = {
            "format": FORMAT,
            "run": self._identity,
            "finished": finished,
            "generations": generations,
        }
        files.atomic_write(self.folder / MANIFEST, canonical_json(manifest).encode())
        self._generations, self.finished = generations, finished

    def _read_manifest(self) -> None:
        path = self.folder / MANIFEST
        try:
            manifest = parse_json(files.read_capped(path, MAX_CONFIG_BYTES))
            self._check(manifest)
        except FileNotFoundError:
            return
        except ValueError as error:
            raise ModelError(
                f"{path}: {error}", "Start again with another -o, or with --force."
            ) from None
        self._generations = manifest["generations"]
        self._number = max((_number(entry["file"]) for entry in self._generations), default=0)
        self.finished = manifest["finished"]

    def _check(self, manifest: object) -> None:
        if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
            raise ValueError("it is not a vaecli manifest")
        refuse_newer(manifest["format"])
        if manifest.get("run") != self._identity:
            raise ValueError("it belongs to a run of another configuration or other data")
        entries = manifest.get("generations")
        if type(manifest.get("finished")) is not bool or not isinstance(entries, list):
            raise ValueError("it is malformed")
        for entry in entries:
            # only names of exactly our form are used as paths
            if (
                not isinstance(entry, dict)
                or entry.keys() != {"file", "size", "sha256"}
                or not isinstance(entry["file"], str)
                or not _NAME.fullmatch(entry["file"])
                or type(entry["size"]) is not int
                or not isinstance(entry["sha256"], str)
            ):
                raise ValueError("its list of generations is malformed")


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0
