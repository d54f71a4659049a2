"""Members of the zip files that named sets come in; nothing is unpacked to the disk."""

from __future__ import annotations

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator

from vaecli.errors import DataError

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, RuntimeError),  # a password is needed, or a method is unknown
)


def members(
    data: bytes, wanted: re.Pattern[str], limit: int, where: str
) -> Iterator[tuple[re.Match[str], bytes]]:
    """The files whose whole names match, in the order of their names, each with its content.

    Args:
        data: the zip file.
        wanted: pattern of their names.
        limit: largest size of one, unpacked.
        where: names the zip file in errors.

    Raises:
        DataError: it is damaged, or holds a larger one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if (match := wanted.fullmatch(info.filename)) is None:
                    continue
                with archive.open(info) as file:
                    content = file.read(limit + 1)
                if len(content) > limit:
                    raise ValueError(f"{info.filename}: it unpacks to more than {limit:,} bytes")
                yield match, content
    except _DAMAGE as error:
        raise DataError(f"zip file: {where}: {error}") from None
