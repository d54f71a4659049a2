"""One HTTP download with time limits, a size limit, and no silent downgrade from https."""

from __future__ import annotations

import contextlib
import http.client
import queue
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator
from http.client import HTTPMessage
from typing import IO

from vaecli.system.callbacks import Progress

SIZE_LIMIT = 64 * 1024**2  # bytes of one download; the largest idx file has 26 MB
LOWEST_RATE = 8 * 1024  # bytes per second; a server below it counts as stalled
_TURN = 0.2  # seconds
Item = tuple[bytes, int | None] | Exception | None
ERRORS = (OSError, ValueError, http.client.HTTPException)


def receive(address: str, timeout: float, progress: Progress, limit: int = SIZE_LIMIT) -> bytes:
    """The body at `address`, of at most `limit` bytes, not checked.

    Raises:
        OSError, ValueError, http.client.HTTPException: refused, stalled, too large, cut short.
    """
    start, data, total = time.monotonic(), bytearray(), None
    with contextlib.closing(stream(address, 3 * timeout, timeout)) as chunks:
        for chunk, total in chunks:
            data += chunk
            if max(len(data), total or 0) > limit:
                raise ValueError(f"it sends more than {limit:,} bytes")
            elapsed = time.monotonic() - start
            if elapsed > 3 * timeout and len(data) < LOWEST_RATE * elapsed:
                raise TimeoutError("it stalls")
            progress(address.rpartition("/")[2], len(data), total)
    if total is not None and len(data) < total:
        raise ValueError(f"it stopped after {len(data):,} of {total:,} bytes")
    return bytes(data)


def stream(
    address: str, first: float, silence: float
) -> Generator[tuple[bytes, int | None], None, None]:
    """Yield the chunks at `address` with the announced total size.

    A thread does the work, because no socket option limits the time of a name look-up, or of
    headers that arrive one byte at a time; it is left to itself when it takes too long.

    Raises:
        TimeoutError: nothing within `first` seconds, or nothing more within `silence`.
        OSError, ValueError, http.client.HTTPException: whatever the request met.
    """
    arrived: queue.SimpleQueue[Item] = queue.SimpleQueue()
    left = threading.Event()

    def work() -> None:
        try:
            request = urllib.request.Request(address, headers={"User-Agent": "vaecli"})
            with urllib.request.build_opener(Redirects).open(request, timeout=silence) as response:
                if response.headers.get_content_type() == "text/html":
                    raise ValueError("it sent a web page (a proxy or a login page?)")
                total = response.length
                while not left.is_set() and (chunk := response.read1(64 * 1024)):
                    arrived.put((chunk, total))
            arrived.put(None)
        except Exception as error:  # it goes on in the thread that waits
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            arrived.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        patience = first
        while True:
            item = _get(arrived, patience)
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item
            patience = silence
    except queue.Empty:
        raise TimeoutError(f"no answer for {patience:g} s") from None
    finally:
        left.set()


def _get(arrived: queue.SimpleQueue[Item], patience: float) -> Item:
    """The next item within `patience` seconds, else queue.Empty.

    In short waits: on Windows a long one would hold Ctrl-C up.
    """
    end = time.monotonic() + patience
    while True:
        left = end - time.monotonic()
        try:
            return arrived.get(timeout=max(0.0, min(left, _TURN)))
        except queue.Empty:
            if left <= _TURN:
                raise


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows few redirects, and none from https to anything else."""

    max_redirections = 5
    max_repeats = 2

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow, or ValueError."""
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            fp.close()
            raise ValueError(f"it redirects from {req.type} to {scheme}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def why(error: Exception) -> str:
    """The reason of a failed request in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        # urllib gives up so on a redirect loop, and on one to a local file
        return "it redirects without a target" if error.code < 400 else f"HTTP {error.code}"
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate cannot be checked ({reason.verify_message}; a Python of python.org on"
            " macOS wants its `Install Certificates.command` run once)"
        )
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())[:120]
