"""Picture formats: the Pillow readers in use, and their file suffixes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from vaecli.system import extras

ALWAYS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Read by every Pillow; the content decides which reader sees a file, never the name."""
AVIF = (".avif", ".avifs")
HEIC = (".heic", ".heif", ".hif", ".heics", ".heifs")
EXTRA = "heic"
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), AVIF[0]),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), HEIC[0]),
}
"""What an ISO media file calls itself, and the suffix of such a file."""


def suffixes() -> frozenset[str]:
    """Suffixes of files that are read, in lower case."""
    found = [suffix for endings in ALWAYS.values() for suffix in endings]
    found += AVIF if reads_avif() else ()
    found += HEIC if reads_heic() else ()
    return frozenset(found)


def readers(data: bytes) -> tuple[str, ...]:
    """The readers of Pillow that may see the file that begins with `data`."""
    if data[4:8] != b"ftyp":  # HEIC and AVIF, both boxes of ISO media: importing costs time
        return tuple(ALWAYS)
    found = []
    if reads_avif():
        found.append("AVIF")
    if reads_heic():
        import pillow_heif

        pillow_heif.register_heif_opener()
        found.append("HEIF")
    return tuple(found)


def reads_avif() -> bool:
    """Whether this Pillow has a reader of AVIF."""
    from PIL import features

    # an older Pillow warns of a feature it has not heard of
    return "avif" in features.modules and bool(features.check("avif"))


def reads_heic() -> bool:
    """Whether the extra that reads HEIC is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def advice(suffix: str, *, exact: bool = False) -> str:
    """A sentence on what makes files with `suffix` readable; empty where nothing does.

    Args:
        suffix: of a file.
        exact: whether the command names this environment, with its path.
    """
    if suffix in HEIC and not reads_heic():
        line = extras.install_line(EXTRA, Path(sys.prefix), active=not exact)
        return f"HEIC needs vaecli[{EXTRA}]: install it with `{line}`."
    if suffix in AVIF and not reads_avif():
        return 'AVIF needs a newer Pillow: install it with `pip install -U "pillow>=11.3"`.'
    return ""


def why_unknown(data: bytes) -> tuple[str, str]:
    """Why no reader recognises the file `data`, and `advice` for it."""
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for mark, name in {b"%!PS": "PostScript", b"%PDF": "PDF", b"<": "HTML or SVG"}.items():
        if start.startswith(mark):
            return f"its content is {name}, which is not supported", ""
    if data[4:8] == b"ftyp" and (suffix := _BRANDS.get(data[8:12])):
        name, help_with = suffix[1:].upper(), advice(suffix, exact=True)
        what = f"its content is {name}, which is not supported" if help_with else f"damaged {name}"
        return what, help_with
    return "its content is not a picture in a supported format, or its header is damaged", ""
