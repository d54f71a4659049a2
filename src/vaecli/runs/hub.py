"""Download a run directory from the Hugging Face Hub: `hf://OWNER/NAME[@REVISION]`."""

from __future__ import annotations

import re
from pathlib import Path

from vaecli.errors import ModelError
from vaecli.system import extras, hub

SCHEME = hub.SCHEME
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
