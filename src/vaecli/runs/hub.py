"""Download a run directory from the Hugging Face Hub: `hf://OWNER/NAME[@REVISION]`."""

from __future__ import annotations

import re
from pathlib import Path

from vaecli.errors import EnvironmentFailure, ModelError
from vaecli.system import extras

SCHEME = "hf://"
FILES = ("config.json", "model.safetensors", "metrics.csv")
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
    extras.require("hub", address)
    from functools import partialmethod

    from huggingface_hub import errors, snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    # its progress bars ignore --quiet and --json; a run is only a few megabytes
    class Silent(tqdm):
        __init__ = partialmethod(tqdm.__init__, disable=True)

    try:
        path = snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=list(FILES),
            local_files_only=not download,
            tqdm_class=Silent,
        )
    except (
        errors.HFValidationError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
    ):
        raise ModelError(
            f"{address}: the Hub has no such repository or revision, or you have no access to it",
            "Check the name; `hf auth login` gives access to private ones.",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        where = "and the Hub cannot be reached" if download else "and --no-download is set"
        raise EnvironmentFailure(
            f"{address}: it is not in the local cache, {where} ({type(error).__name__})",
            "Connect to the network, or name a run directory.",
        ) from None
    return Path(path), match["name"]
