"""Two pictures in one stream: `cat a.png b.png | vaecli reconstruct -` must not drop the second."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Outcome, Vaecli
from vaecli.data.formats import reads_avif
from vaecli.data.second_picture import has_second

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8))
VIDEO = b"\0\0\0\x20ftypisom" + bytes(50)


def save(form: str, mode: str = "RGB", *, more: int = 0, **options: Any) -> bytes:
    """A file of one image, or of some more."""
    file = io.BytesIO()
    if more:
        options |= {"save_all": True, "append_images": [NOISE.rotate(i + 1) for i in range(more)]}
    NOISE.convert(mode).copy().save(file, form, **options)
    return file.getvalue()


PICTURES = {
    "PNG": save("PNG"),
    "animated PNG": save("PNG", more=2),
    "JPEG": save("JPEG"),
    "progressive JPEG": save("JPEG", progressive=True),
    "JPEG of a phone": save("MPO", more=2),
    "WebP": save("WEBP"),
    "animated WebP": save("WEBP", more=2),
    "BMP": save("BMP"),
    "1-bit BMP": save("BMP", "1"),
    "TIFF": save("TIFF"),
    "TIFF in JPEG": save("TIFF", compression="jpeg"),
    "TIFF of pages": save("TIFF", more=2),
    "GIF": save("GIF"),
    "animated GIF": save("GIF", more=2),
    "PPM": save("PPM"),
    "PGM": save("PPM", "L"),
    "PBM": save("PPM", "1"),
    "16-bit PGM": b"P5 3 2 65535\n" + bytes(12),
    "PGM as text": b"P2\n# by hand\n2 2\n255\n1 2\n3 4\n",
    **({"AVIF": save("AVIF")} if reads_avif() else {}),
}


@pytest.mark.parametrize("first", PICTURES)
def test_a_second_picture_is_seen_behind_a_first(first: str) -> None:
    data = PICTURES[first]
    for end in (b"", b"\n", bytes(16), VIDEO, b"\xff\xd8 no picture"):
        assert not has_second(data + end), end
    missed = [name for name, other in PICTURES.items() if not has_second(data + other)]
    assert missed == []
    assert has_second(data + b"\n" + PICTURES["PNG"])


@pytest.mark.parametrize("first", PICTURES)
def test_a_picture_that_is_cut_off_is_left_to_its_reader(first: str) -> None:
    data = PICTURES[first]
    for length in range(0, len(data), max(1, len(data) // 50)):
        assert not has_second(data[:length])


def test_a_second_picture_on_stdin_is_refused(
    vaecli: Vaecli, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(data: bytes) -> Outcome:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return vaecli("reconstruct", "-", "-m", trained, "-o", "out.png", "-f")

    assert pipe(PICTURES["PNG"]).code == 0
    outcome = pipe(PICTURES["PNG"] + PICTURES["JPEG"])
    assert outcome.code == 3
    assert "stdin: a second picture follows the first" in outcome.err
