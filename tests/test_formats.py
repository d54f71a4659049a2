"""Formats of pictures that not every installation reads: HEIC and AVIF."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vaecli.data import formats, image_file
from vaecli.data.own import listing
from vaecli.errors import DataError
from vaecli.system import extras

HEIC = b"\0\0\0\x18ftypheic" + bytes(300)
RAMP = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)


@pytest.fixture
def save() -> Any:
    def call(form: str, pixels: Any = RAMP, **options: Any) -> bytes:
        if form == "HEIF":
            pytest.importorskip("pillow_heif", reason="needs vaecli[heic]").register_heif_opener()
        elif not formats.reads_avif():
            pytest.skip("needs a Pillow with AVIF")
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form, **options)
        return file.getvalue()

    return call


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_the_pixels_are_those_that_were_saved(save: Any, form: str, colour: bool) -> None:
    pixels = (
        np.dstack([RAMP, RAMP.T[:48, :48].repeat(2, 1)[:, :64], 255 - RAMP]) if colour else RAMP
    )
    data = save(form, pixels, quality=95)
    assert formats.readers(data)
    found = image_file.read_image(data, name="x.heic").pixels
    expected = pixels.reshape(48, 64, -1).astype(int)
    assert np.abs(found[..., :1].astype(int) - expected[..., :1]).mean() < 4


def test_a_turned_photo_is_read_upright(save: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise
    found = image_file.read_image(save("AVIF", exif=exif), name="x").pixels
    assert found.shape[:2] == (64, 48)
    assert np.abs(found[..., 0].astype(int) - np.rot90(RAMP, -1)).mean() < 4


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_the_limits_hold_here_too(save: Any, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = save(form)
    for cut in (40, len(data) // 2, len(data) - 20):
        with pytest.raises(DataError, match="cannot read the image: x: "):
            image_file.read_image(data[:cut], name="x")
    monkeypatch.setattr(image_file, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(DataError, match="64 x 48 is more than the limit"):
        image_file.read_image(data, name="x")


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pillow-heif nor a Pillow with AVIF."""
    monkeypatch.setattr(formats, "reads_heic", lambda: False)
    monkeypatch.setattr(formats, "reads_avif", lambda: False)


def test_what_is_missing_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch)
    line = extras.install_line("heic", Path(sys.prefix))
    with pytest.raises(DataError, match="its content is HEIC") as caught:
        image_file.read_image(HEIC, name="x.jpg")
    assert line in caught.value.hint
    with pytest.raises(DataError, match="its content is AVIF") as caught:
        image_file.read_image(HEIC.replace(b"heic", b"avif"), name="x.avif")
    assert "pillow" in caught.value.hint
    assert not formats.suffixes() & {*formats.HEIC, *formats.AVIF}


def test_a_damaged_file_is_no_missing_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "reads_heic", lambda: True)
    assert formats.why_unknown(HEIC) == ("damaged HEIC", "")
    video = HEIC.replace(b"heic", b"isom")
    assert "not a picture" in formats.why_unknown(video)[0]


def test_a_folder_lists_what_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMG_1.HEIC", "b.avif", "c.png"):
        (tmp_path / name).write_bytes(HEIC)
    monkeypatch.setattr(formats, "reads_heic", lambda: True)
    monkeypatch.setattr(formats, "reads_avif", lambda: True)
    assert [path.name for path in listing.find_images(tmp_path)[0]] == [
        "IMG_1.HEIC",
        "b.avif",
        "c.png",
    ]
    without(monkeypatch)
    found, left_out = listing.find_images(tmp_path)
    assert [path.name for path in found] == ["c.png"]
    assert [*left_out.values()] == [1, 1]
    line = extras.install_line("heic", Path(sys.prefix), active=True)
    assert [line in text for text in left_out] == [False, True]
    assert sys.executable not in " ".join(left_out)
    (tmp_path / "c.png").unlink()
    with pytest.raises(DataError, match=r"it holds 1 .avif file: .*; 1 .heic file: .*vaecli\[heic"):
        listing.find_images(tmp_path)


def test_pillow_heif_is_not_imported_for_other_formats() -> None:
    assert "HEIF" not in formats.readers(b"\x89PNG\r\n\x1a\n" + os.urandom(8))
