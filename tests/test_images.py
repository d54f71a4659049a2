import gzip
import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from vaecli.data import formats, image_file, picture_fit
from vaecli.data.pixels import quantile, to_uint8
from vaecli.errors import DataError
from vaecli.pictures import grid as pictures

Array = NDArray[Any]
STROKES = {
    2: [[(28, 28), (38, 12), (60, 12), (68, 30), (56, 54), (28, 86), (50, 84), (76, 86)]],
    4: [[(40, 10), (26, 54), (76, 54)], [(62, 34), (58, 92)]],
    8: [
        [
            (52, 48),
            (32, 32),
            (42, 12),
            (64, 14),
            (66, 32),
            (50, 48),
            (32, 70),
            (44, 90),
            (66, 84),
            (66, 64),
            (52, 48),
        ]
    ],
}


def strokes(digit: int, size: tuple[int, int], pen: float, part: float) -> Image.Image:
    """White pen strokes on black, centred."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    scale = part * min(size) / 100
    for line in STROKES[digit]:
        points = [(size[0] / 2 + (x - 50) * scale, size[1] / 2 + (y - 50) * scale) for x, y in line]
        draw.line(points, fill=255, width=round(pen), joint="curve")
        for x, y in points:
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return image


def drawn_digit(digit: int) -> Array:
    """(28, 28) uint8 as MNIST was made, by arithmetic of its own."""
    image = strokes(digit, (800, 800), 75, 0.7)
    cut = image.crop(image.getbbox())
    scale = 20 / max(cut.size)
    small = cut.resize([max(1, round(side * scale)) for side in cut.size], Image.Resampling.BOX)
    values = np.asarray(small).astype(float)
    rows, columns = (values.sum(axis) @ np.arange(values.shape[1 - axis]) for axis in (1, 0))
    top, left = (int(np.ceil(13.5 - place / values.sum())) for place in (rows, columns))
    result = np.zeros((28, 28), np.uint8)
    result[top : top + values.shape[0], left : left + values.shape[1]] = values
    return result


def real_digits(count: int) -> Array:
    folder = os.environ.get("VAECLI_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    for path in sorted(Path(folder).rglob("t10k-images-idx3-ubyte*")):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        return np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:count]
    pytest.skip(f"no MNIST test images under {folder}")


def save(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def thickness(ink: Array) -> float:
    """Of strokes, in pixels: twice the area over the outline, each step across it being one."""
    down, right = np.gradient(np.pad(ink, 1))
    return 2 * float(ink.sum()) / float(np.hypot(down, right).sum())


def read(data: bytes) -> image_file.Picture:
    return image_file.read_image(data, name="x.png")


def fit(data: bytes, **changes: Any) -> tuple[Array, tuple[str, ...]]:
    options: dict[str, Any] = {
        "name": "x.png",
        "border": 0,
        "digits": True,
        "image_shape": (1, 28, 28),
    } | changes
    pixels, notes = picture_fit.prepare(read(data), **options)
    assert pixels.dtype == np.uint8
    assert tuple(pixels.shape) == options["image_shape"]
    return pixels, notes


def gap(first: Array, second: Array) -> float:
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


# reading: one row per mode, with the pixel values it must give


def palette(transparency: bytes | None = None) -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return save(image) if transparency is None else save(image, transparency=transparency)


def sixteen(form: str = "PNG") -> bytes:
    return save(Image.fromarray(np.array([[0, 257, 65535, 128, 129]], np.uint16)), form)


def line(mode: str, *values: Any, form: str = "PNG", **options: Any) -> bytes:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return save(image, form, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, depth: int, colour: int, row: bytes, *more: bytes) -> bytes:
    """A PNG of one row, of any depth and type of colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def raw_tiff(width: int, bits: tuple[int, ...], kind: int, row: bytes, **tags: int) -> bytes:
    """A TIFF of one row; `kind` is its PhotometricInterpretation, `extra` what a last band is."""
    entries: dict[int, tuple[int, ...]] = {
        256: (width,), 257: (1,), 258: bits, 259: (1,), 262: (kind,), 273: (0,),
        277: (len(bits),), 278: (1,), 279: (len(row),),
    }  # fmt: skip
    if "extra" in tags:
        entries[338] = (tags["extra"],)
    place = 8 + 2 + 12 * len(entries) + 4
    entries[273] = (place + 2 * len(bits),)
    body = struct.pack("<H", len(entries))
    for tag, values in sorted(entries.items()):
        short = struct.pack(f"<{len(values)}H", *values)
        body += struct.pack("<HHI", tag, 3, len(values))
        body += short.ljust(4, b"\0") if len(values) <= 2 else struct.pack("<I", place)
    long = struct.pack(f"<{len(bits)}H", *bits)
    return struct.pack("<2sHI", b"II", 42, 8) + body + bytes(4) + long + row


GOLDEN: dict[str, tuple[bytes, Any, Any]] = {
    "1": (line("1", 0, 255), [[0], [255]], None),
    "1 PBM": (line("1", 0, 255, form="PPM"), [[0], [255]], None),
    "L": (line("L", 0, 7, 255), [[0], [7], [255]], None),
    "L BMP": (line("L", 0, 7, 255, form="BMP"), [[0], [7], [255]], None),
    "L GIF": (line("L", 0, 7, 255, form="GIF"), [[0] * 3, [7] * 3, [255] * 3], None),
    "L with a clear level": (line("L", 0, 7, transparency=7), [[0], [7]], [255, 0]),
    "LA": (line("LA", (9, 0), (200, 128)), [[9], [200]], [0, 128]),
    "P": (palette(), [[10, 20, 30], [200, 100, 50]], None),
    "P with transparency": (palette(b"\x40\xff"), [[10, 20, 30], [200, 100, 50]], [64, 255]),
    "RGB": (line("RGB", (1, 2, 3), (255, 0, 9)), [[1, 2, 3], [255, 0, 9]], None),
    "RGB with a clear colour": (
        line("RGB", (1, 2, 3), (4, 5, 6), transparency=(4, 5, 6)),
        [[1, 2, 3], [4, 5, 6]],
        [255, 0],
    ),
    "RGBA": (line("RGBA", (1, 2, 3, 4), (5, 6, 7, 255)), [[1, 2, 3], [5, 6, 7]], [4, 255]),
    "RGBA WebP": (
        line("RGBA", (1, 2, 3, 255), (5, 6, 7, 9), form="WEBP", lossless=True, exact=True),
        [[1, 2, 3], [5, 6, 7]],
        [255, 9],
    ),
    "CMYK TIFF": (
        line("CMYK", (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255), form="TIFF"),
        [[255, 255, 255], [0, 255, 255], [0, 0, 0]],
        None,
    ),
    "YCbCr TIFF": (line("YCbCr", (90, 128, 128), form="TIFF"), [[90, 90, 90]], None),
    "16-bit PNG": (sixteen(), [[0], [1], [255], [0], [1]], None),
    "16-bit TIFF": (sixteen("TIFF"), [[0], [1], [255], [0], [1]], None),
    "16-bit PGM": (b"P5 2 1 65535\n\x01\x01\xff\xff", [[1], [255]], None),
    "2-bit PNG": (raw_png(4, 2, 0, b"\x1b"), [[0], [85], [170], [255]], None),
    "4-bit PNG": (raw_png(2, 4, 0, b"\x0f"), [[0], [255]], None),
    "1-bit palette": (
        raw_png(2, 1, 3, b"\x40", chunk(b"PLTE", bytes([1, 2, 3, 9, 8, 7]))),
        [[1, 2, 3], [9, 8, 7]],
        None,
    ),
    "16-bit RGB": (
        raw_png(1, 16, 2, b"\x01\x02\xff\xfe\x80\xff"),
        [[1, 255, 128]],
        None,
    ),
    "16-bit LA": (raw_png(1, 16, 4, b"\x7f\x80\x40\xff"), [[127, 127, 127]], [64]),
    "white is zero": (raw_tiff(2, (8,), 0, bytes([0, 200])), [[255], [55]], None),
    "white is zero, 1 bit": (raw_tiff(2, (1,), 0, b"\x80"), [[0], [255]], None),
    "white is zero, 16 bits": (raw_tiff(2, (16,), 0, b"\0\0\xff\xff"), [[255], [0]], None),
    "RGBX": (raw_tiff(1, (8,) * 4, 2, bytes([1, 2, 3, 4]), extra=0), [[1, 2, 3]], None),
    "RGBA TIFF": (raw_tiff(1, (8,) * 4, 2, bytes([9, 8, 7, 4]), extra=2), [[9, 8, 7]], [4]),
    "RGBa, multiplied": (
        raw_tiff(1, (8,) * 4, 2, bytes([10, 20, 30, 128]), extra=1),
        [[19, 39, 59]],
        [128],
    ),
    "LAB": (raw_tiff(1, (8,) * 3, 8, bytes([255, 0, 0])), [[254, 255, 254]], None),
    "15 levels PGM": (b"P5 2 1 15\n\x00\x0f", [[0], [255]], None),
    "16-bit PPM": (b"P6 1 1 65535\n\x01\x01\xff\xff\0\0", [[1, 255, 0]], None),
    "16-bit as I": (line("I", 0, 257 * 8, 65535, form="TIFF"), [[0], [8], [255]], None),
}


@pytest.mark.parametrize("row", GOLDEN)
def test_every_mode_has_its_pixel_values(row: str) -> None:
    if row == "YCbCr TIFF" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFFs it writes")
    data, pixels, alpha = GOLDEN[row]
    picture = read(data)
    assert picture.pixels.tolist() == [pixels]
    assert (None if picture.alpha is None else picture.alpha.tolist()) == (alpha and [alpha])
    assert picture.pixels.dtype == np.uint8


def test_cmyk_jpeg_is_read_in_its_own_colours() -> None:
    image = Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK")
    picture = read(save(image, "JPEG", quality=100))
    assert gap(picture.pixels, np.array([200, 40, 90])) < 3
    assert picture.notes == ("CMYK converted to RGB",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_turns_a_picture_upright(orientation: int, form: str) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    options = {"lossless": True} if form == "WEBP" else {}
    picture = read(save(image, form, exif=exif, **options))
    assert picture.pixels[..., 0].tolist() == upright.tolist()
    assert ("turned upright as its EXIF says" in picture.notes) == (orientation != 1)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_an_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (4, 4), (level, level, level)) for level in (0, 255)]
    data = save(frames[0], form, save_all=True, append_images=frames[1:])
    picture = read(data)
    assert picture.pixels.max() == 0
    assert f"first frame of several in the {form}" in picture.notes


# reading: what is refused


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def noise(form: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    return save(Image.fromarray(values), form)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "HTML": (b"<!DOCTYPE html><title>404</title>", "HTML"),
    "EPS": (EPS, "PostScript"),
    "HEIC": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
    "noise": (bytes(range(1, 200)), "not a picture"),
    "50,000 x 50,000": (huge_png(), "50,000,000 pixels"),
    "9,000 x 9,000": (save(Image.new("1", (9000, 9000))), "9,000 x 9,000"),
    "float TIFF": (line("F", 0.5, 1.0, form="TIFF"), "floating-point"),
    "32-bit TIFF": (line("I", 0, 70_000, form="TIFF"), "more than 16 bits"),
    "negative TIFF": (line("I", 0, -1, form="TIFF"), "more than 16 bits"),
    **{f"half a {form}": (noise(form)[:-900], "") for form in formats.ALWAYS},
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_read_is_refused_at_once(row: str, tmp_path: Path) -> None:
    data, reason = REFUSED[row]
    path = tmp_path / "x.png"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        image_file.read_image(path, name="x.png")
    assert time.perf_counter() - start < 2
    assert caught.value.message.startswith("cannot read the image: x.png: ")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint.endswith(".")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing.png"]:
        with pytest.raises(DataError, match=path.name):
            image_file.read_image(path, name=path.name)


def test_a_file_over_the_byte_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = line("L", 1)
    monkeypatch.setattr(image_file, "MAX_IMAGE_BYTES", len(data) - 1)
    (tmp_path / "x.png").write_bytes(data)
    for source in (data, tmp_path / "x.png"):
        with pytest.raises(DataError, match="bytes"):
            image_file.read_image(source, name="x.png")


@pytest.mark.parametrize("form", formats.ALWAYS)
def test_mutated_files_are_read_or_refused(form: str) -> None:
    generator = np.random.default_rng(1)
    whole = noise(form)
    for _ in range(40):
        data = bytearray(whole)
        for place in generator.integers(0, min(len(data), 400), 3):
            data[place] = generator.integers(256)
        try:
            picture = read(bytes(data))
        except DataError:
            continue
        assert picture.pixels.ndim == 3


# fitting: the same digit in every guise

Guise = Callable[[Array], bytes]


def with_alpha(level: int) -> Guise:
    """The digit as alpha, in one level, on nothing."""
    return lambda digit: save(
        Image.merge(
            "LA", (Image.new("L", digit.shape[::-1], level), Image.fromarray(digit))
        ).convert("RGBA")
    )


def card(digit: Array) -> bytes:
    """Black on a white card with clear corners."""
    grey = Image.fromarray(255 - digit)
    alpha = Image.new("L", grey.size, 255)
    for corner in [(0, 0), (27, 0), (0, 27), (27, 27)]:
        alpha.putpixel(corner, 0)
    return save(Image.merge("LA", (grey, alpha)))


def as_palette(digit: Array) -> bytes:
    return save(Image.fromarray(digit).convert("RGB").quantize(256))


def turned(digit: Array) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(Image.fromarray(np.ascontiguousarray(np.rot90(digit))), exif=exif)


def cmyk(digit: Array) -> bytes:
    return save(Image.fromarray(digit).convert("CMYK"), "JPEG", quality=95)


def enlarged(digit: Array, filter_: Image.Resampling, side: int = 280) -> Image.Image:
    page = Image.new("L", (300, 400))
    big = Image.fromarray(digit).resize((side, side), filter_)
    page.paste(big, ((300 - side) // 2, (400 - side) // 2))
    return page


GUISES: dict[str, tuple[Guise, float]] = {
    "plain": (lambda digit: save(Image.fromarray(digit)), 0),
    "dark on light": (lambda digit: save(Image.fromarray(255 - digit)), 0),
    "RGB": (lambda digit: save(Image.fromarray(digit).convert("RGB")), 0),
    "white on transparent": (with_alpha(255), 0),
    "black on transparent": (with_alpha(0), 0),
    "card": (card, 0),
    "16-bit": (lambda digit: save(Image.fromarray(digit.astype(np.uint16) * 257)), 0),
    "palette": (as_palette, 0),
    "CMYK JPEG": (cmyk, 3),
    "turned by EXIF": (turned, 0),
    "300x400 bicubic": (lambda d: save(enlarged(d, Image.Resampling.BICUBIC)), 5),
    "300x400 nearest": (lambda d: save(enlarged(d, Image.Resampling.NEAREST)), 5),
    "300x400 bilinear": (lambda d: save(enlarged(d, Image.Resampling.BILINEAR)), 6),
    "300x400 lanczos": (lambda d: save(enlarged(d, Image.Resampling.LANCZOS, 212)), 5),
    "300x400 dark, JPEG": (
        lambda d: save(
            enlarged(d, Image.Resampling.BICUBIC).point([255 - i for i in range(256)]), "JPEG"
        ),
        5,
    ),
}


@pytest.mark.parametrize("guise", GUISES)
def test_a_digit_is_the_same_in_every_guise(guise: str) -> None:
    make, limit = GUISES[guise]
    for digit in map(drawn_digit, STROKES):
        pixels, _ = fit(make(digit))
        assert gap(pixels[0], digit) <= limit


@pytest.mark.parametrize("guise", GUISES)
def test_a_real_digit_is_the_same_in_every_guise(guise: str) -> None:
    make, limit = GUISES[guise]
    gaps = [gap(fit(make(digit))[0][0], digit) for digit in real_digits(8)]
    assert max(gaps) <= limit


def test_a_centred_frame_decides_where_the_mass_lies_between_two_pixels() -> None:
    digits = real_digits(300)
    places = np.arange(28)
    mass = digits.astype(float).sum((1, 2))
    rows = (digits.sum(2) @ places / mass) % 1
    columns = (digits.sum(1) @ places / mass) % 1
    close = (abs(rows - 0.5) < 0.03) | (abs(columns - 0.5) < 0.03)
    assert close.sum() > 10
    gaps = [
        gap(fit(save(enlarged(digit, Image.Resampling.BICUBIC)))[0][0], digit)
        for digit in digits[close][:24]
    ]
    assert max(gaps) <= 5


@pytest.mark.parametrize(("border", "level"), [(0, 255), (255, 0)])
def test_the_models_polarity_decides(border: int, level: int) -> None:
    digit = drawn_digit(4)
    plain = digit if border == 0 else 255 - digit
    for guise in ("plain", "dark on light", "black on transparent", "white on transparent", "card"):
        pixels, notes = fit(GUISES[guise][0](digit), border=border)
        assert np.array_equal(pixels[0], plain), guise
        assert bool(notes) == (guise != ("plain" if border == 0 else "dark on light"))
    large, _ = fit(save(enlarged(digit, Image.Resampling.BICUBIC)), border=border)
    assert large[0, 0, 0] == border
    assert gap(large[0], plain) < 5
    assert abs(int(large.max() if level else large.min()) - level) == 0


def test_invert_can_be_forced() -> None:
    digit = drawn_digit(2)
    light, dark = save(Image.fromarray(digit)), save(Image.fromarray(255 - digit))
    assert np.array_equal(fit(light, invert="yes")[0][0], 255 - digit)
    assert np.array_equal(fit(dark, invert="no")[0][0], 255 - digit)
    big = save(enlarged(255 - digit, Image.Resampling.BICUBIC, 300).crop((0, 50, 300, 350)))
    assert gap(fit(big, invert="yes")[0][0], digit) < 5
    assert gap(fit(big)[0][0], digit) < 5


def test_notes_tell_every_change() -> None:
    digit = drawn_digit(4)
    assert fit(save(Image.fromarray(digit)))[1] == ()
    assert fit(with_alpha(0)(digit))[1] == (
        "RGB converted to grey",
        "alpha composited on white",
        "inverted: dark ink on a light background",
    )
    dark = enlarged(digit, Image.Resampling.BICUBIC).point([255 - i for i in range(256)])
    assert fit(save(dark))[1] == ("inverted: dark ink", "fitted as a digit: 300x400 to 28x28")


def phone(digit: int, seed: int, size: tuple[int, int], pen: float, **how: Any) -> Array:
    """A pen digit on paper in uneven light, as a camera sees it: (H, W, 3)."""
    generator = np.random.default_rng(seed)
    width, height = size
    part = strokes(digit, size, pen, how.get("part", 0.5))
    ink = np.asarray(part.filter(ImageFilter.GaussianBlur(pen / 10 + 0.3)))[..., None] / 255
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    light = 1 - 0.35 * (0.6 * x + 0.8 * y) - 0.25 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    if how.get("shadow"):
        light = light * (1 - 0.3 * np.clip((x + 0.4 * y - 0.75) * 20 + 0.5, 0, 1))
    paper, pigment = np.array([226, 222, 210]), np.array(how.get("colour", (30, 40, 120)))
    page = (paper * (1 - 0.9 * ink) + pigment * 0.9 * ink) * light[..., None]
    if how.get("desk"):
        page[:, : width // 16] = 60
        page[: height // 25] = 55
    return np.asarray((page + generator.normal(0, 7, (height, width, 1))).clip(0, 255), np.uint8)


PHOTOS: dict[str, dict[str, Any]] = {
    "blue pen": {"size": (900, 1200), "pen": 6},
    "small digit": {"size": (1200, 900), "pen": 5, "part": 0.3},
    "shadow": {"size": (900, 1200), "pen": 8, "shadow": True},
    "dark desk": {"size": (900, 1200), "pen": 8, "desk": True, "colour": (20, 20, 20)},
    "felt pen": {"size": (600, 800), "pen": 45, "part": 0.8, "shadow": True},
}


@pytest.mark.parametrize("row", PHOTOS)
@pytest.mark.parametrize("digit", STROKES)
def test_a_photo_of_a_pen_digit_becomes_an_mnist_digit(row: str, digit: int) -> None:
    picture = image_file.Picture(phone(digit, digit, **PHOTOS[row]))
    pixels, _ = picture_fit.prepare(picture, (1, 28, 28), border=0, digits=True, name="x")
    ink = pixels[0]
    # black ground, white core, MNIST's usual thickness: twice the area over the outline
    assert (ink == 0).mean() > 0.7
    assert ink[:3].max() == 0
    assert (ink > 240).sum() > 20
    assert 1.6 < thickness(ink / 255) < 3.6
    # the same strokes as drawn at once, a pixel aside at most: centring rounds either way
    clean, _ = fit(save(strokes(digit, (800, 800), 60, 0.7)))
    moved = [np.roll(clean[0], (y, x), (0, 1)).ravel() for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert max(np.corrcoef(ink.ravel(), other)[0, 1] for other in moved) > 0.85


def test_a_full_size_photo_takes_no_longer_than_a_second() -> None:
    small = phone(4, 0, (750, 1000), 5)
    picture = image_file.Picture(np.repeat(np.repeat(small, 4, 0), 4, 1))
    start = time.perf_counter()
    picture_fit.prepare(picture, (1, 28, 28), border=0, digits=True, name="x")
    assert time.perf_counter() - start < 3  # measured: 0.2 s


def test_a_page_without_ink_is_ground_only() -> None:
    generator = np.random.default_rng(0)
    light = np.linspace(230, 150, 300)[None, :, None] + generator.normal(0, 6, (400, 300, 1))
    for page in (light.astype(np.uint8), np.full((40, 30, 1), 210, np.uint8)):
        pixels, notes = picture_fit.prepare(
            image_file.Picture(page), (1, 28, 28), border=0, digits=True, name="x"
        )
        assert pixels.max() == 0
        assert any("no ink" in note for note in notes)


def test_specks_are_no_ink() -> None:
    digit = enlarged(drawn_digit(8), Image.Resampling.BICUBIC)
    clean, _ = fit(save(digit))
    for place in [(3, 3), (290, 390), (20, 380)]:
        digit.putpixel(place, 255)
    assert np.array_equal(fit(save(digit))[0], clean)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 5), (3000, 2)])
@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 8, 8), (1, 1, 2), (1, 32, 20), (3, 16, 16)])
def test_odd_sizes_are_fitted(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    for method in ("digit", "crop", "auto"):
        fit(save(Image.fromarray(values)), image_shape=shape, fit=method)


def test_the_box_follows_the_models_size() -> None:
    data = save(strokes(4, (400, 400), 40, 0.6))
    for side in (28, 56, 64):
        ink = fit(data, image_shape=(1, side, side))[0][0] > 25
        rows = np.flatnonzero(ink.any(1))
        assert abs((rows[-1] - rows[0] + 1) - round(20 / 28 * side)) <= 1


def test_crop_takes_the_centre() -> None:
    values = np.zeros((40, 80, 3), np.uint8)
    values[:, 20:60] = (250, 100, 50)
    pixels, notes = fit(
        save(Image.fromarray(values)), image_shape=(3, 20, 20), border=40, digits=False
    )
    assert (pixels[:, :, 2:-2].reshape(3, -1).T == [250, 100, 50]).all()
    assert notes == ("cropped at the centre and resized: 80x40 to 20x20",)


def test_colour_models_see_alpha_on_white() -> None:
    data = line("RGBA", (10, 20, 30, 0), (10, 20, 30, 128), (10, 20, 30, 255))
    pixels, notes = fit(data, image_shape=(3, 1, 3), border=0, digits=False)
    assert pixels[:, 0].T.tolist() == [[255] * 3, [132, 137, 142], [10, 20, 30]]
    assert notes == ("alpha composited on white",)


def test_grey_is_repeated_for_colour_models() -> None:
    pixels, notes = fit(line("L", 5, 200), image_shape=(3, 1, 2), border=0, digits=False)
    assert pixels.tolist() == [[[5, 200]]] * 3
    assert notes == ("grey repeated over three channels",)


def test_two_channels_are_refused() -> None:
    with pytest.raises(DataError, match="2 channels"):
        fit(line("L", 5), image_shape=(2, 1, 1))


# pictures out


def test_grid_places_every_image() -> None:
    tiles = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(2, 2).repeat(3, 3)
    grid = pictures.make_grid(tiles, columns=3, scale=2, gap=1, background=9)
    assert grid.shape == (1, 1 + 2 * 5, 1 + 3 * 7)
    for index in range(6):
        top, left = 1 + index // 3 * 5, 1 + index % 3 * 7
        tile = grid[0, top : top + 4, left : left + 6]
        assert (tile == (index + 1 if index < 5 else 9)).all()
    assert (grid[:, 0] == 9).all()
    assert (grid[:, :, -1] == 9).all()


def test_grid_enlarges_small_images_only() -> None:
    def blank(channels: int, side: int) -> NDArray[np.uint8]:
        return np.zeros((1, channels, side, side), np.uint8)

    assert pictures.make_grid(blank(1, 28), columns=8).shape[1] == 60
    assert pictures.make_grid(blank(3, 64), columns=8).shape[1] == 68


@pytest.mark.parametrize("channels", [1, 3])
def test_png_bytes_are_read_back(channels: int) -> None:
    pixels = np.arange(0, 60 * channels, 10, dtype=np.uint8).reshape(channels, 2, 3)
    data = pictures.encode_png(pixels)
    assert data == pictures.encode_png(pixels)
    assert np.array_equal(read(data).pixels, pixels.transpose(1, 2, 0))


def test_to_uint8_rounds_clamps_and_takes_nan() -> None:
    values = np.array([0, 0.4 / 255, 0.6 / 255, 1, 1.5, -1, np.nan, np.inf], np.float32)
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255, 0, 0, 255]


def test_a_quantile_is_numpys() -> None:
    for count in (1, 2, 7, 1000):
        values = np.random.default_rng(count).normal(size=count).astype(np.float32)
        for share in (0, 0.02, 0.35, 0.5, 0.9, 1):
            assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)))
