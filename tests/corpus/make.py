"""Makes the files of this folder, and expected.csv: what vaecli must say to each.

    python tests/corpus/make.py

A file is for the command of its folder, which tests/test_corpus.py runs.  `found/` is kept by
hand: inputs that once did harm, as they were found.  Encoders differ between versions of Pillow,
so the bytes of a picture may; what it must come to does not.
"""

from __future__ import annotations

import csv
import io
import json
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vaecli.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from vaecli.model.vae import build
from vaecli.runs import weights

HERE = Path(__file__).resolve().parent
Case = tuple[str, bytes, int, str]
"""Path, content, exit code, words of the message."""

MODEL = ModelConfig(image_shape=(1, 3, 4), hidden=(5,), latent_dim=2)
STATE = build(MODEL, seed=0).weights()
GOOD = weights.encode_model(MODEL, STATE)
SHORT = 8
(LENGTH,) = struct.unpack("<Q", GOOD[:SHORT])
BODY = GOOD[SHORT + LENGTH :]


# ------------------------------------------------------------------ pictures


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of any claims."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def drawing(mode: str, size: tuple[int, int] = (12, 9)) -> Image.Image:
    """A small picture with something in it."""
    rng = np.random.Generator(np.random.PCG64(1))
    colours = rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    return Image.fromarray(colours, "RGBA").convert("RGB").convert(mode)


FOUR_MEGABYTES = zlib.compress(bytes(2**22), 9)
SIX_BYTES = chunk(b"IDAT", zlib.compress(bytes(6)))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def pictures() -> Iterator[Case]:
    """Files given to `vaecli reconstruct`."""
    grey, colour = drawing("L"), drawing("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "good.png", saved(grey, "PNG"), 0, ""
    yield "one-bit.png", saved(grey.convert("1"), "PNG"), 0, ""
    yield "palette.png", saved(colour.quantize(16), "PNG"), 0, "palette converted to RGB"
    yield "grey-alpha.png", saved(grey.convert("LA"), "PNG"), 0, ""
    yield "colour-alpha.png", saved(colour.convert("RGBA"), "PNG"), 0, "RGB converted to grey"
    yield (
        "sixteen-bit.png",
        saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999), "PNG"),
        0,
        "16-bit scaled to 8-bit",
    )
    yield "cmyk.jpg", saved(colour.convert("CMYK"), "JPEG"), 0, "CMYK converted to RGB"
    yield "turned.jpg", saved(colour, "JPEG", exif=exif), 0, "turned upright"
    yield "lossy.webp", saved(colour, "WEBP"), 0, ""
    yield "lab.tif", saved(Image.new("LAB", (5, 4)), "TIFF"), 0, "LAB converted to RGB"
    yield (
        "animated.gif",
        saved(grey, "GIF", save_all=True, append_images=[drawing("P")]),
        0,
        "first frame of several in the GIF",
    )
    yield "jpeg-named.png", saved(colour, "JPEG"), 0, ""
    yield "empty.png", b"", 3, "it is empty"
    yield "page.png", b"<!DOCTYPE html><html><title>404</title></html>", 3, "HTML or SVG"
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', 3, "HTML or SVG"
    yield "postscript.png", EPS, 3, "PostScript, which is not supported"
    yield "document.jpg", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", 3, "PDF, which is not supported"
    yield "phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", 3, "HEIC or AVIF"
    yield "icon.png", b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x18\0\x30\3\0\0\x16\0\0\0", 3, "not a picture"
    yield "photoshop.png", b"8BPS\0\1\0\0\0\0\0\0\0\1\0\0\0\1\0\0\0\1\0\x08\0\1", 3, "not a picture"
    yield "pickle.png", b"cposix\nsystem\n(S'true'\ntR.", 3, "not a picture"
    yield "signature-only.png", b"\x89PNG\r\n\x1a\n", 3, ""
    yield "half.png", saved(drawing("RGB", (40, 40)), "PNG")[:-900], 3, "damaged or incomplete"
    yield "half.jpg", saved(drawing("RGB", (40, 40)), "JPEG")[:-400], 3, "damaged or incomplete"
    yield "huge.png", png(50_000, 50_000, chunk(b"IDAT", b""), colour=2), 3, "50,000,000 pixels"
    yield "wide.png", png(2**31 - 1, 1, chunk(b"IDAT", b"")), 3, "50,000,000 pixels"
    yield "nothing-wide.png", png(0, 5, chunk(b"IDAT", b"")), 3, ""
    yield "bomb.png", png(7000, 7100, chunk(b"IDAT", zlib.compress(bytes(10**6), 9))), 3, ""
    yield (
        "text-bomb.png",
        png(
            2,
            2,
            chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22), 9)),
            chunk(b"IDAT", zlib.compress(bytes(6))),
        ),
        3,
        "",
    )
    yield (
        "profile-bomb.png",
        png(
            2,
            2,
            chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**22), 9)),
            chunk(b"IDAT", zlib.compress(bytes(6))),
        ),
        3,
        "",
    )
    yield "bad-check.png", saved(grey, "PNG").replace(b"IDAT", b"IDAU"), 3, ""
    yield (
        "frame-larger.gif",
        saved(Image.new("P", (1, 1)), "GIF").replace(
            b",\0\0\0\0\1\0\1\0", b",\0\0\0\0\xff\xff\xff\xff"
        ),
        3,
        "",
    )
    yield "claims.pgm", b"P5 7000 7000 255\n" + bytes(9), 3, ""
    yield "claims.ppm", b"P6 99999999999999999999 9 255\n", 3, ""
    yield "negative.pgm", b"P5 -3 -3 255\n123456789", 3, ""
    yield "floats.pfm", b"Pf\n2 2\n-1.0\n" + bytes(16), 3, "floating-point"
    yield "floats.tif", saved(Image.new("F", (2, 2), 0.5), "TIFF"), 3, "floating-point"
    yield "deep.tif", saved(Image.new("I", (2, 2), 70_000), "TIFF"), 3, "more than 16 bits"
    yield "own-directory.tif", struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 256, 4, 1, 1, 8), 3, ""
    yield (
        "claims.bmp",
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        3,
        "",
    )


# ------------------------------------------------------------------- weights


def pack(header: object, body: bytes = BODY) -> bytes:
    """A safetensors file with a header of any content."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def header(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The sound file with its header changed."""
    content = json.loads(GOOD[SHORT : SHORT + LENGTH])
    change(content)
    return pack(content)


def about(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The sound file with what it says about itself changed."""

    def edit(content: dict[str, Any]) -> None:
        said = json.loads(content["__metadata__"]["vaecli"])
        change(said)
        content["__metadata__"]["vaecli"] = json.dumps(said)

    return header(edit)


def model(**changes: object) -> bytes:
    """The sound file with the configuration of its model changed."""
    return about(lambda said: said["info"]["model"].update(changes))


def tensor(**changes: object) -> bytes:
    """The sound file with the entry of one tensor changed."""
    return header(lambda content: content["encoder.mean.bias"].update(changes))


def with_text(old: bytes, new: bytes) -> bytes:
    """The sound file with words of its header replaced, whatever that makes of it."""
    return pack(GOOD[SHORT : SHORT + LENGTH].replace(old, new, 1))


def with_state(**tensors: NDArray[Any]) -> bytes:
    """A file with other tensors, as sound as its writer makes it."""
    return weights.encode_model(MODEL, {**STATE, **tensors})


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def renamed(name: str) -> bytes:
    """The sound file with one tensor called otherwise."""
    return header(lambda c: c.update({name: c.pop("encoder.mean.bias")}))


def weights_files() -> Iterator[Case]:
    """Files given to `vaecli sample -m`."""
    bias = "encoder.mean.bias"
    yield "good", GOOD, 0, ""
    yield "empty", b"", 4, "too short"
    yield "seven-bytes", GOOD[:7], 4, "too short"
    yield "zeros", bytes(4096), 4, "not a safetensors file"
    yield "page", b"<!DOCTYPE html>" * 9, 4, "not a safetensors file"
    yield "pickle", b"cposix\nsystem\n(S'true'\ntR." * 9, 4, "not a safetensors file"
    yield "length-2-60", struct.pack("<Q", 2**60) + GOOD[SHORT:], 4, "not a safetensors file"
    yield "length-past-end", struct.pack("<Q", len(GOOD)) + GOOD[SHORT:], 4, "is truncated"
    yield "header-cut", GOOD[:100], 4, "is truncated"
    yield "body-cut", GOOD[:-1], 4, "it is damaged"
    yield "body-longer", GOOD + b"\0", 4, "it is damaged"
    yield "bit-flipped", GOOD[:-1] + bytes([GOOD[-1] ^ 1]), 4, "SHA-256"
    yield "header-no-json", pack(b"{,}" * 9), 4, ""
    yield "header-a-list", pack(b"[]"), 4, "not a JSON object"
    yield "header-empty", pack(b"{}"), 4, "not written by vaecli"
    yield "header-no-utf8", pack(b'{"\xff": 1}'), 4, ""
    yield "header-deep", pack(b"[" * 20_000), 4, "nested too deeply"
    yield (
        "another-tool",
        header(lambda c: c.update(__metadata__={"format": "pt"})),
        4,
        "not written by vaecli",
    )
    yield "metadata-a-list", header(lambda c: c.update(__metadata__=[])), 4, "not written"
    yield "tensor-twice", with_text(b'{"', b'{"encoder.mean.bias":{},"'), 4, "appears twice"
    yield "key-twice", with_text(b'\\"info\\":', b'\\"info\\":1,\\"info\\":'), 4, "appears twice"
    yield "newer-format", about(lambda said: said.update(format=2)), 4, "upgrade vaecli"
    yield "format-huge", with_text(b'\\"format\\":1', b'\\"format\\":' + b"9" * 4000), 4, "upgrade"
    yield "format-true", about(lambda said: said.update(format=True)), 4, "not one vaecli writes"
    yield "format-zero", about(lambda said: said.update(format=0)), 4, "not one vaecli writes"
    yield "number-1e999", with_text(b'\\"border\\":0', b'\\"border\\":1e999'), 4, "out of range"
    yield "number-nan", with_text(b'\\"border\\":0', b'\\"border\\":NaN'), 4, "not a JSON number"
    yield "number-5000-digits", with_text(b'\\"border\\":0', b'\\"border\\":' + b"9" * 5000), 4, ""
    yield (
        "border-4000-digits",
        with_text(b'\\"border\\":0', b'\\"border\\":' + b"9" * 4000),
        4,
        "border: must be at most 255",
    )
    yield "hidden-1e9", model(hidden=[10**9]), 4, "hidden: must be at most 65,536"
    yield "hidden-sum", model(hidden=[65536, 65536]), 4, "8,592,162,832 parameters"
    yield "hidden-many", model(hidden=[5] * 1000), 4, "1 to 16 widths"
    yield "hidden-none", model(hidden=[]), 4, "do not fit its configuration"
    yield "hidden-text", model(hidden="400"), 4, "hidden"
    yield "hidden-nested", model(hidden=nested(900)), 4, ""
    yield "hidden-nested-31", model(hidden=nested(20)), 4, "hidden"
    yield "latents-0", model(latent_dim=0), 4, "latent_dim: must be at least 1"
    yield "latents-true", model(latent_dim=True), 4, "latent_dim"
    yield "latents-others", model(latent_dim=3), 4, "do not fit"
    yield "shape-huge", model(image_shape=[3, 4096, 4096]), 4, "more than 3,145,728"
    yield "arch-unknown", model(arch="transformer"), 4, "arch: must be"
    yield "key-unknown", model(layers=3), 4, "model.layers: unknown key"
    yield "key-missing", about(lambda said: said["info"]["model"].pop("image_shape")), 4, "missing"
    yield "model-none", about(lambda said: said["info"].update(model=None)), 4, "expected an object"
    yield "digest-wrong", about(lambda said: said.update(sha256="0" * 64)), 4, "SHA-256"
    yield "digest-none", about(lambda said: said.update(sha256=None)), 4, "not one vaecli writes"
    yield "dtype-unknown", tensor(dtype="Q4"), 4, "malformed"
    yield "dtype-i64", tensor(dtype="I64", shape=[1]), 4, "malformed"
    yield "dtype-double", with_state(**{bias: STATE[bias].astype(np.float64)}), 4, "do not fit"
    yield "dtype-half-unsaid", with_state(**{bias: STATE[bias].astype(np.float16)}), 4, "do not fit"
    yield "shape-0-by-2-40", tensor(shape=[0, 2**40], data_offsets=[0, 0]), 4, ""
    yield "shape-of-9", tensor(shape=[1] * 9), 4, "do not fit"
    yield "shape-negative", tensor(shape=[-2]), 4, "do not fit"
    yield "shape-true", tensor(shape=[True, 2]), 4, "malformed"
    yield "shape-transposed", with_state(**{bias: STATE[bias][None]}), 4, "do not fit"
    yield "offsets-huge", tensor(data_offsets=[0, 2**40]), 4, "it is damaged"
    yield "offsets-swapped", tensor(data_offsets=[8, 0]), 4, "it is damaged"
    yield "offsets-overlap", tensor(data_offsets=[0, 8]), 4, "it is damaged"
    yield "offsets-one", tensor(data_offsets=[8]), 4, "it is damaged"
    yield "entry-a-number", header(lambda c: c.update({bias: 1})), 4, "malformed"
    yield "name-traversal", renamed("../../etc/passwd"), 4, "do not fit"
    yield "name-escape-codes", renamed("\x1b[2J\x1b]0;owned\x07"), 4, "\\x1b[2J"
    yield "name-surrogate", renamed("\ud800"), 4, "do not fit"
    yield "name-long", renamed("n" * 60_000), 4, "do not fit"
    yield "name-missing", header(lambda c: c.pop(bias)), 4, "do not fit"
    yield "nan", with_state(**{bias: np.array([0, np.nan], np.float32)}), 4, "NaN or infinite"
    yield "infinite", with_state(**{bias: np.array([0, -np.inf], np.float32)}), 4, "NaN or infinite"


# ---------------------------------------------------- config.json, manifest.json

RUN = RunConfig(
    model=MODEL,
    training=TrainConfig(),
    data=DataConfig(name="mnist", fingerprint="0" * 64, n_train=10, n_test=2),
    environment={"torch": "2", "threads": 1},
)


def run(**changes: Any) -> bytes:
    """A config.json with values changed, `model={"hidden": …}` within its part."""
    content = RUN.to_json()
    for key, value in changes.items():
        whole = key in ("format", "more") or not isinstance(value, dict)
        content[key] = value if whole else {**content[key], **value}
    return json.dumps(content).encode()


def configs() -> Iterator[Case]:
    """Files put in the place of a run's config.json, for `vaecli eval -m RUN`."""
    text = run()
    yield "another-model", text, 4, "describe different models"
    yield "empty", b"", 4, ""
    yield "a-list", b"[]", 4, "not a vaecli configuration"
    yield "deep", b"[" * 50_000, 4, "nested too deeply"
    yield "not-utf8", b"\xff" + text, 4, ""
    yield "utf16", text.decode().encode("utf-16"), 4, ""
    yield "too-large", text + b" " * 2**16, 4, "more than the limit of 65,536"
    yield "null-bytes", bytes(400), 4, ""
    yield "newer", run(format=2), 4, "upgrade vaecli"
    yield "format-text", run(format="1"), 4, "not a vaecli configuration"
    yield "hidden-1e9", run(model={"hidden": [10**9]}), 4, "model.hidden: must be at most 65,536"
    yield "epochs-negative", run(training={"epochs": -1}), 4, "training.epochs"
    yield "lr-text", run(training={"lr": "1e-3"}), 4, "training.lr"
    yield "several", run(training={"epochs": 0, "seed": -1}), 4, "training.seed"
    yield "key-unknown", run(more=1), 4, "and no others"
    yield "number-1e999", text.replace(b'"border": 0', b'"border": 1e999'), 4, "out of range"
    yield "twice", text.replace(b'"format": 1', b'"format": 1, "format": 1'), 4, "appears twice"
    yield "threads-1e9", run(environment={"threads": 10**9}), 4, "environment.threads"
    yield "threads-negative", run(environment={"threads": -1}), 4, "environment.threads"
    yield "threads-true", run(environment={"threads": True}), 4, "environment"
    yield "threads-text", run(environment={"threads": "many"}), 4, "environment.threads"
    yield "environment-nested", run(environment={"torch": nested(20)}), 4, "environment"
    yield "environment-a-list", run(environment=[]), 4, "no others"


def manifests() -> Iterator[Case]:
    """Files put in the place of a run's manifest.json, for `vaecli train --resume RUN`."""

    def one(**changes: object) -> bytes:
        entry = {"file": "generation-000001.safetensors", "size": 10, "sha256": "0" * 64}
        content = {"format": 1, "run": "RUN", "finished": False, "generations": [entry | changes]}
        return json.dumps(content).encode()

    yield "good-but-gone", one(), 4, "no state to resume from"
    yield "empty", b"", 4, ""
    yield "a-number", b"1", 4, "not a vaecli manifest"
    yield "newer", one().replace(b'"format": 1', b'"format": 2'), 4, "upgrade vaecli"
    yield "of-another-run", one().replace(b'"RUN"', b'"0000"'), 4, "another configuration"
    yield "traversal", one(file="../../../../etc/passwd"), 4, "malformed"
    yield "absolute", one(file="/etc/generation-000001.safetensors"), 4, "malformed"
    yield "size-text", one(size="10"), 4, "malformed"
    yield "size-huge", one(size=10**18), 4, "no state to resume from"
    yield "finished-text", one().replace(b"false", b'"no"'), 4, "malformed"
    yield "deep", b'{"format":' + b"[" * 900 + b"]" * 900 + b"}", 4, ""


# ----------------------------------------------------------- arrays and latents


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def raw_npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A .npy file with a header of any content."""
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + body


def npz(*, how: int = zipfile.ZIP_DEFLATED, **arrays: bytes) -> bytes:
    """A .npz file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, data in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            member.compress_type = how
            archive.writestr(member, data)
    return file.getvalue()


def garbled(archive: bytes, name: str = "images.npy") -> bytes:
    """An archive with the middle of its first member overwritten."""
    start = archive.index(name.encode()) + len(name) + 8
    return archive[:start] + b"\x55" * 12 + archive[start + 12 :]


MANY = npz(**dict.fromkeys(map("a{}".format, range(1001)), b""))  # type: ignore[arg-type]


def arrays() -> Iterator[Case]:
    """Files given to `vaecli train --data`."""
    images = np.arange(20 * 6 * 5, dtype=np.uint16).astype(np.uint8).reshape(20, 6, 5)
    objects = npy(np.array([{"a": 1}] * 3, dtype=object))
    described = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
    locked = bytearray(npz(images=npy(images)))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + flags] |= 1
    yield "good.npy", npy(images), 0, ""
    yield "good.npz", npz(images=npy(images), names=npy(np.array(["a", "b"]))), 0, ""
    yield "objects.npy", objects, 3, "Python objects"
    yield "objects.npz", npz(images=objects), 3, "Python objects"
    yield "pickle.npy", b"cposix\nsystem\n(S'true'\ntR.", 3, "not a .npy array"
    yield "code.npy", raw_npy("__import__('os').system('true')"), 3, "header is damaged"
    yield "minus-signs.npy", raw_npy("-" * 3000 + "1"), 3, "header is damaged"
    yield "brackets.npy", raw_npy("[" * 3000), 3, "header is damaged"
    yield "header-long.npy", raw_npy(" " * 60_000), 3, "more than 4,096"
    yield "version-3.npy", raw_npy("{}", version=b"\x03\x00"), 3, "version 3.0"
    yield "fields.npy", npy(np.zeros(3, [("a", "u1")])), 3, "not a plain number type"
    yield "dates.npy", npy(np.zeros((2, 3, 3), "M8[s]")), 3, "not a plain number type"
    yield (
        "claims.npy",
        raw_npy(described.format("|u1", "(1000000, 1000000, 1000000)")),
        3,
        "impossible size",
    )
    yield "claims-less.npy", raw_npy(described.format("|u1", "(10, 100, 100)")), 3, "damaged"
    yield "negative.npy", raw_npy(described.format("|u1", "(-2, -3, 4)")), 3, "impossible size"
    yield "no-pixels.npy", npy(np.zeros((5, 0, 3), np.uint8)), 3, ""
    yield "no-pixels-floats.npy", npy(np.zeros((5, 0, 3), np.float32)), 3, ""
    yield "cut.npy", npy(images)[:-1], 3, "damaged"
    yield "nan.npy", npy(np.full((3, 4, 4), np.nan)), 3, "0 to 1"
    yield "empty.npz", b"", 3, ""
    yield "nothing.npz", npz(), 3, "nothing"
    yield "not-zip.npz", b"PK no archive", 3, ""
    yield "locked.npz", bytes(locked), 3, "password"
    yield "garbled-deflate.npz", garbled(npz(images=npy(images))), 3, ""
    yield "garbled-bzip2.npz", garbled(npz(how=zipfile.ZIP_BZIP2, images=npy(images))), 3, ""
    yield "garbled-lzma.npz", garbled(npz(how=zipfile.ZIP_LZMA, images=npy(images))), 3, ""
    yield "many.npz", MANY, 3, "more than 1,000 files"


def latents() -> Iterator[Case]:
    """Files given to `vaecli sample --latents`, for a model of two latents."""
    yield "good.csv", b"path,z0,z1\na.png,0.5,-1\n", 0, ""
    yield "good.npy", npy(np.zeros((3, 2), np.float32)), 0, ""
    yield "no-columns.csv", b"path,loss\na.png,3\n", 3, "no columns z0"
    yield "empty.csv", b"", 3, "no columns z0"
    yield "words.csv", b"z0,z1\na,b\n", 3, "not a number"
    yield "short-row.csv", b"z0,z1\n1\n", 3, "not a number"
    yield "nan.csv", b"z0,z1\nnan,0\n", 3, "NaN"
    yield "infinite.csv", b"z0,z1\n1e999,0\n", 3, "infinite"
    yield "binary.csv", bytes(range(256)), 3, ""
    yield "quote.csv", b'z0,z1\n"' + b"1" * 140_000 + b"\n", 3, ""
    yield "long-header.csv", b"z" * 140_000, 3, ""
    yield "digits.csv", b"z0,z" + b"1" * 5000 + b"\n0,0\n", 3, ""
    yield "of-another-model.npy", npy(np.zeros((3, 5))), 3, "needs N x 2"
    yield "objects.npy", npy(np.array([{}])), 3, "objects"
    yield "texts.npy", npy(np.array(["a"])), 3, "not an array of numbers"


# -------------------------------------------------------------- configuration


def options() -> Iterator[Case]:
    """TOML files given to `vaecli train --config`."""
    yield "good.toml", b'hidden = [5]\n[train]\ndata = "mnist"\n', 0, ""
    yield "empty.toml", b"", 0, ""
    yield "unknown.toml", b"epoch = 3", 2, "'epochs'"
    yield "unknown-section.toml", b"[trian]\nepochs = 3", 2, "trian"
    yield "long-key.toml", b"k" * 60_000 + b" = 1", 2, "unknown option"
    yield "type.toml", b"epochs = [[1]]", 2, "string or number"
    yield "date.toml", b"epochs = 1979-05-27", 2, "string or number"
    yield "hidden-1e9.toml", b"hidden = 1000000000", 2, "65,536"
    yield "hidden-nested.toml", b"hidden = " + b"[" * 40 + b"]" * 40, 2, "hidden"
    yield "lr-infinite.toml", b"lr = inf", 2, "lr"
    yield "digits.toml", b"seed = " + b"9" * 4000, 2, ""
    yield "more-digits.toml", b"seed = " + b"9" * 5000, 2, ""
    yield "null.toml", b'data = "a\\u0000b"', 2, "null character"
    yield "null-output.toml", b'output = "a\\u0000b"', 2, "null character"
    yield "not-utf8.toml", b"epochs = \xff", 2, ""
    yield "twice.toml", b"epochs = 1\nepochs = 2", 2, ""
    yield "deep.toml", b"epochs = " + b"[" * 30_000, 2, ""
    yield "too-large.toml", b"#" * 70_000, 2, "more than the limit of 65,536"
    yield "unfinished.toml", b'epochs = "', 2, ""


FOLDERS: dict[str, Callable[[], Iterator[Case]]] = {
    "images": pictures,
    "weights": weights_files,
    "config": configs,
    "manifest": manifests,
    "arrays": arrays,
    "latents": latents,
    "toml": options,
}


def main() -> None:
    """Write every file, and the table."""
    rows = []
    for folder, cases in FOLDERS.items():
        (HERE / folder).mkdir(exist_ok=True)
        for name, content, code, words in cases():
            if name.isprintable():  # others are written by the test, since not every system can
                (HERE / folder / name).write_bytes(content)
                rows.append((f"{folder}/{name}", code, words))
    table = HERE / "expected.csv"
    with table.open(newline="") if table.exists() else io.StringIO() as file:
        found = [row for row in csv.reader(file) if row and row[0].startswith("found/")]
    rows += [(name, int(code), words) for name, code, words in found]
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("file", "exit", "words"), *rows])
    print(f"{len(rows)} files", file=sys.stderr)


if __name__ == "__main__":
    main()
