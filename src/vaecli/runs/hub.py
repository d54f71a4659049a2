"""Runs on the Hugging Face Hub, `hf://OWNER/NAME[@REVISION]`: downloaded and uploaded."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path

from vaecli.errors import EnvironmentFailure, ModelError, UsageError
from vaecli.runs.directory import CARD, HELD_OUT, OWN_FILES, Run
from vaecli.system import extras, hub, shell

SCHEME = hub.SCHEME
FILES = ("config.json", "model.safetensors", "metrics.csv", HELD_OUT)
"""The files that are downloaded: those the commands read."""

_ADDRESS = re.compile(r"hf://(?P<repo>\w[\w.-]*/(?P<name>\w[\w.-]*))(@(?P<revision>\w[\w./-]*))?")


def fetch(address: str, *, download: bool = True) -> tuple[Path, str]:
    """Download a run, or take it from the local cache of huggingface_hub.

    Args:
        address: `hf://OWNER/NAME`, with `@REVISION` for a branch, tag or commit.
        download: whether the network may be used.

    Returns:
        The run directory in huggingface_hub's cache, and the repository's own name.

    Raises:
        ModelError: the address is malformed, or the Hub has no such repository.
        EnvironmentFailure: huggingface_hub is not installed, or the Hub cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ModelError(f"{address}: it is not a Hub address", "Write hf://OWNER/NAME.")
    extras.require("hub", address, ("huggingface_hub",))
    from huggingface_hub import snapshot_download

    with hub.explained(address, ModelError, download=download):
        path = snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=list(FILES),
            local_files_only=not download,
            tqdm_class=hub.no_bar(),  # a run is only a few megabytes
        )
    return Path(path), match["name"]


def push(run: Run, address: str, *, private: bool, replace: bool) -> str:
    """Upload a run directory without its `state/`, in one commit.

    Args:
        run: the run directory.
        address: `hf://OWNER/NAME`.
        private: make a private repository.
        replace: add the commit to a repository that exists.

    Returns:
        The address of the commit.

    Raises:
        UsageError: the address is malformed, or the repository exists and must not be replaced.
        ModelError: the run is unfinished, or a file of it names a path of this machine.
        EnvironmentFailure: huggingface_hub is not installed, or the Hub cannot be reached or
            refuses.
    """
    match = require_address(address)
    paths = [run.path / name for name in OWN_FILES]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ModelError(
            f"{run.path}: it lacks {', '.join(missing)}",
            f"Finish it with `{shell.join(['vaecli', 'train', '--resume', str(run.path)])}`.",
        )
    _require_no_local_paths(run, paths)
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # they ignore --quiet and --json
    with _refusals(address):
        ModelCard((run.path / CARD).read_text(encoding="utf-8"), ignore_metadata_errors=False)
        api = HfApi()
        api.create_repo(match["repo"], private=private, exist_ok=replace)
        added = [CommitOperationAdd(path.name, path) for path in paths]
        commit = api.create_commit(match["repo"], added, commit_message=f"Run {run.path.name}")
    return str(commit.commit_url)


def require_address(address: str) -> re.Match[str]:
    """The parts of an address to upload to.

    Raises:
        UsageError: it is malformed.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or match["revision"] is not None:
        raise UsageError(f"{address}: not an address to upload to", "Write hf://OWNER/NAME.")
    return match


def _require_no_local_paths(run: Run, paths: Sequence[Path]) -> None:
    """ModelError if a file names the run's place on this machine, its data or the home folder."""
    local = {str(run.path.resolve()), str(Path.home())}
    with contextlib.suppress(ModelError):
        local.add(str((run.read_origin() or {}).get("location", "")))
    secrets = [text.encode() for text in local if text.startswith(os.sep) and len(text) > 4]
    for path in paths:
        data = path.read_bytes()
        if found := [text for text in secrets if text in data]:
            raise ModelError(
                f"{path}: it names {found[0].decode()}, a path of this machine",
                "Remove it from the file.",
            )


@contextlib.contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn what huggingface_hub raises at an upload into an error that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError(f"{address}: {error}", "Write hf://OWNER/NAME.") from None
    except Exception as error:
        if isinstance(error, ValueError) and not hub.is_unreachable(error):
            raise ModelError(
                f"{address}: the model card cannot be read: {error}", "Restore README.md."
            ) from None
        if not hub.is_unreachable(error):
            raise
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == HTTPStatus.CONFLICT:
            raise UsageError(
                f"{address}: the repository exists", "Name another, or add a commit with --force."
            ) from None
        denied = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)
        if status in denied or isinstance(error, errors.LocalTokenNotFoundError):
            raise EnvironmentFailure(
                f"{address}: the Hub does not let you write there",
                "Log in with `hf auth login`, with a token that may write.",
            ) from None
        reason = f"error {status}" if status else type(error).__name__
        raise EnvironmentFailure(
            f"{address}: the upload failed ({reason})", "Give the same command again with --force."
        ) from None
