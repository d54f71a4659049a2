"""The Hugging Face Hub through huggingface_hub: what it raises, and its progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vaecli.errors import EnvironmentFailure, VaecliError

SCHEME = "hf://"


@contextmanager
def explained(address: str, refusal: type[VaecliError], *, download: bool) -> Iterator[None]:
    """Turn what huggingface_hub raises into an error that says what to do.

    Args:
        address: what messages call the repository.
        refusal: the error for a repository that does not exist.
        download: whether the network may be used.
    """
    from huggingface_hub import errors

    try:
        yield
    except (
        errors.HFValidationError,
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
    ):
        raise refusal(
            f"{address}: the Hub has no such repository or revision, or you have no access to it",
            "Check the name; `hf auth login` gives access to private ones.",
        ) from None
    except Exception as error:
        if not is_unreachable(error):
            raise
        where = "and the Hub cannot be reached" if download else "and --no-download is set"
        raise EnvironmentFailure(
            f"{address}: it is not in the local cache, {where} ({type(error).__name__})",
            "Connect to the network, or name a local folder.",
        ) from None


def is_unreachable(error: Exception) -> bool:
    """Whether an error means that the Hub did not answer, or answered with an error."""
    from huggingface_hub import errors

    # its HTTP client is httpx or a successor of it, whose errors it does not name
    client = type(error).__module__.startswith("httpx")
    return client or isinstance(error, OSError | errors.HfHubHTTPError)


def no_bar() -> Any:
    """A class of progress bars that show nothing: theirs ignore --quiet and --json."""
    from functools import partialmethod

    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        __init__ = partialmethod(tqdm.__init__, disable=True)

    return Silent
