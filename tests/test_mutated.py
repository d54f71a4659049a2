"""Checkpoints and pictures with random damage, through the command line: refused or harmless.

Hypothesis, derandomized: every run of the suite tries the same ones.  What was ever found this way
is kept in tests/corpus/found/.
"""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from command import peak_memory
from conftest import REPOSITORY
from vaecli.cli import app
from vaecli.config import ModelConfig
from vaecli.model.vae import build
from vaecli.runs import weights

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory from Linux's /proc")

SECONDS, MEMORY = 2.0, 64 * 2**20
TOGETHER = 5
"""Pictures given to one command: together they must keep the limits of one."""
LOG = REPOSITORY / "tests/logs/mutated-inputs.txt"

# ------------------------------------------------------------------- mutations

NUMBERS = [0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]
Cut = tuple[str, int, int, bytes]


def cuts(most: int = 4) -> st.SearchStrategy[list[Cut]]:
    """Changes of some bytes: what to do, where, how far, with what."""
    kinds = st.sampled_from(["flip", "set", "insert", "delete", "repeat", "end", "little", "big"])
    places = st.one_of(st.integers(0, 80), st.integers(0, 3000))
    one = st.tuples(kinds, places, st.integers(0, 64), st.binary(min_size=1, max_size=6))
    return st.lists(one, min_size=1, max_size=most)


def cut(data: bytes, changes: list[Cut]) -> bytes:
    """`data` after these changes."""
    for kind, place, length, new in changes:
        place %= max(1, len(data))
        before, after = data[:place], data[place:]
        number = NUMBERS[length % len(NUMBERS)]
        if kind == "flip":
            data = before + bytes(byte ^ 1 << length % 8 for byte in after[:1]) + after[1:]
        elif kind == "delete":
            data = before + after[length:]
        elif kind == "repeat":
            data = before + 3 * after[:length] + after[length:]
        elif kind == "end":
            data = before
        elif kind == "insert":
            data = before + new + after
        else:
            if kind != "set":
                new = struct.pack("<I" if kind == "little" else ">I", number)
            data = before + new + after[len(new) :]
    return data


def resealed_png(data: bytes) -> bytes:
    """A PNG whose chunks have the check sums of what they now hold."""
    result, place = data[:8], 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        body = data[place + 4 : place + 8 + length]
        result += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return result


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [None, True, [], {}, [[]], [5, 5], [10**9], ["5"], [0, 8], "", "mlp", "F16", "I8", "\ud800"]
    ),
    st.sampled_from([-1, 0, 1, 2, 3, 5, 256, 1e300, 10**9, 2**31, 2**48, 2**63, 10**400]),
    st.text(max_size=5),
)
Edit = tuple[int, str, Any]
EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(["put", "drop", "rename", "swap"]), VALUES),
    max_size=3,
)


def places_in(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (object or list, key or index) in a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            places_in(value[key], found)
    return found


def edited(value: Any, edits: list[Edit]) -> None:
    """Change a JSON value in place."""
    for number, kind, given_value in edits:
        new = copy.deepcopy(given_value)
        places = places_in(value, [])
        if not places:
            return
        parent, key = places[number % len(places)]
        other, other_key = places[(number * 7 + 3) % len(places)]
        if kind == "swap" and isinstance(other, dict | list):
            try:
                parent[key] = copy.deepcopy(other[other_key])
            except (KeyError, IndexError):
                parent[key] = new
        elif kind == "drop":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[str(new)[:50]] = parent.pop(key)
        else:
            parent[key] = new


CONFIG = ModelConfig(image_shape=(1, 8, 8), hidden=(5,), latent_dim=2)
SOUND = weights.encode_model(CONFIG, build(CONFIG, seed=0).weights())


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """The bytes of a damaged weights file."""
    (length,) = struct.unpack("<Q", SOUND[:8])
    header = json.loads(SOUND[8 : 8 + length])
    about = json.loads(header["__metadata__"]["vaecli"])
    body = SOUND[8 + length :]
    how = draw(st.sampled_from(["bytes", "header", "text", "about", "model", "body"]))
    if how == "bytes":
        return cut(SOUND, draw(cuts()))
    if how == "header":
        edited(header, draw(EDITS))
    elif how == "text":
        changed = cut(SOUND[8 : 8 + length], draw(cuts()))
        return struct.pack("<Q", len(changed)) + changed + body
    elif how == "body":  # with the digest of what is there, as a forger would
        body = cut(body, draw(cuts(2)))
        body = body[: len(SOUND) - 8 - length].ljust(len(SOUND) - 8 - length, b"\xff")
        names = {name: header[name] for name in header if name != "__metadata__"}
        about["sha256"] = forged_digest(names, body)
    else:
        edited(about if how == "about" else about["info"]["model"], draw(EDITS))
    if isinstance(header.get("__metadata__"), dict) and how != "header":
        header["__metadata__"]["vaecli"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def forged_digest(entries: dict[str, Any], body: bytes) -> str:
    """What `weights.digest` says of these tensors."""
    tensors = {}
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        values = np.frombuffer(body[start:stop], np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return weights.digest(tensors)


def _sound_pictures() -> list[tuple[str, bytes]]:
    """Small pictures of every format and many modes."""
    rng = np.random.Generator(np.random.PCG64(2))
    colour = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    grey16 = Image.fromarray(rng.integers(0, 2**16, (6, 7), dtype=np.uint16))
    frames = [colour.convert("L"), colour.convert("L").rotate(90)]
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG", colour, {"exif": exif}),
        ("PNG", colour.convert("LA"), {}),
        ("PNG", colour.quantize(9), {"transparency": 3}),
        ("PNG", colour.convert("1"), {}),
        ("PNG", grey16, {}),
        ("PNG", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("JPEG", colour, {"exif": exif}),
        ("JPEG", colour.convert("L"), {"progressive": True}),
        ("JPEG", colour.convert("CMYK"), {}),
        ("WEBP", colour, {}),
        ("WEBP", colour.convert("RGBA"), {"lossless": True}),
        ("WEBP", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("BMP", colour, {}),
        ("BMP", colour.quantize(9), {}),
        ("TIFF", colour, {"exif": exif}),
        ("TIFF", colour, {"compression": "tiff_lzw"}),
        ("TIFF", colour, {"compression": "jpeg"}),
        ("TIFF", colour.convert("1"), {"compression": "group4"}),
        ("TIFF", grey16, {"compression": "tiff_adobe_deflate"}),
        ("GIF", frames[0], {"save_all": True, "append_images": frames[1:]}),
        ("GIF", colour.quantize(9), {"transparency": 3}),
        ("PPM", colour, {}),
        ("PPM", colour.convert("1"), {}),
        ("PPM", grey16.convert("I"), {}),
    ]
    if int(PIL.__version__.partition(".")[0]) >= 13:  # earlier ones cannot read the one they write
        kinds.append(("TIFF", colour.convert("YCbCr"), {}))
    result = []
    for form, image, options in kinds:
        file = io.BytesIO()
        image.save(file, form, **options)
        result.append((form, file.getvalue()))
    return result


PICTURES = _sound_pictures()


@st.composite
def pictures(draw: st.DrawFn) -> bytes:
    """The bytes of a damaged picture."""
    form, data = draw(st.sampled_from(PICTURES))
    changed = cut(data, draw(cuts(2)))
    if form == "PNG" and draw(st.booleans()):
        return resealed_png(changed)
    return changed


# ---------------------------------------------------------------------- running


@dataclass
class Tally:
    """What became of the inputs."""

    inputs: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    harmless: int = 0
    seconds: float = 0.0
    memory: int = 0

    def command(self, words: list[object], inputs: int, allowed: tuple[int, ...]) -> int:
        """Run one command within the limits; command.py looks at the rest."""
        code, seconds, grown = self._measured(words)
        if seconds >= SECONDS:  # the machine may have been busy: once more
            code, seconds, grown = self._measured(words)
        assert code in allowed, words
        assert seconds < SECONDS, f"{seconds:.1f} s: {words}"
        assert grown <= MEMORY, f"{grown / 2**20:.0f} MiB more: {words}"
        self.inputs += inputs
        self.codes[code] += 1
        self.harmless += inputs if code == 0 and inputs == 1 else 0
        self.seconds, self.memory = max(self.seconds, seconds), max(self.memory, grown)
        return code

    def _measured(self, words: list[object]) -> tuple[int, float, int]:
        memory = peak_memory()
        start = time.perf_counter()
        with Muted():
            code = app.run([str(word) for word in words])
        return code, time.perf_counter() - start, memory()

    def line(self, what: str, given: str) -> str:
        """One line of the log."""
        codes = ", ".join(f"{code}: {count:,}" for code, count in sorted(self.codes.items()))
        return (
            f"{what}: {self.inputs:,} ({given}), {self.harmless:,} harmless;"
            f" commands by exit code: {codes}; 0 tracebacks;"
            f" at most {self.seconds:.2f} s and {self.memory / 2**20:.1f} MiB more\n"
        )


class Muted:
    """stderr and stdout go nowhere, at the level of Python."""

    def __enter__(self) -> None:
        self.streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = open(os.devnull, "w")

    def __exit__(self, *_: object) -> None:
        sys.stdout.close()
        sys.stdout, sys.stderr = self.streams


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound weights; and everything imported that the commands need."""
    folder = tmp_path_factory.mktemp("mutated")
    path = folder / "model.safetensors"
    path.write_bytes(SOUND)
    for number, (form, data) in enumerate(PICTURES):
        (folder / f"{number}.{form.lower()}").write_bytes(data)
    with Muted():
        assert app.run(["reconstruct", str(folder), "-m", str(path), "-o", str(folder / "o")]) == 0
        assert app.run(["sample", "-m", str(path), "-n", "1", "-o", str(folder / "o.png")]) == 0
    return path


def suite(count: int) -> Callable[[Any], Any]:
    """Settings of so many examples, the same every time."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def try_checkpoints(folder: Path, count: int) -> Tally:
    tally = Tally()
    file = folder / "x.safetensors"
    command = ["sample", "-m", file, "-n", "1", "-o", folder / "out.png", "--force", "-q"]

    @suite(count)
    @given(checkpoints())
    def one(data: bytes) -> None:
        file.write_bytes(data)
        tally.command(command, 1, (0, 4))

    one()
    return tally


def try_configurations(folder: Path, run: Path, data_dir: Path, count: int) -> Tally:
    """The same for config.json, with the metrics beside it."""
    tally = Tally()
    shutil.copytree(run, folder / "run")
    sound = json.loads((run / "config.json").read_text())
    data = ["--data-dir", data_dir, "--no-download", "--limit", "5", "-q"]

    @suite(count)
    @given(st.one_of(EDITS, cuts()))
    def one(changes: list[Any]) -> None:
        text = json.dumps(sound).encode()
        if changes and len(changes[0]) == 4:
            text = cut(text, changes)
        else:
            content = json.loads(text)
            edited(content, changes)
            text = json.dumps(content).encode()
        (folder / "run/config.json").write_bytes(text)
        tally.command(["eval", "-m", folder / "run", *data], 1, (0, 3, 4))

    one()
    return tally


def try_pictures(folder: Path, model: Path, count: int) -> Tally:
    tally = Tally()
    names = [folder / f"{index}.png" for index in range(TOGETHER)]
    command = ["reconstruct", *names, "-m", model, "-o", folder / "out", "--force", "-q"]

    @suite(count // TOGETHER)
    @given(st.lists(pictures(), min_size=TOGETHER, max_size=TOGETHER))
    def several(files: list[bytes]) -> None:
        shutil.rmtree(folder / "out", ignore_errors=True)
        for name, data in zip(names, files, strict=True):
            name.write_bytes(data)
        code = tally.command(command, TOGETHER, (0, 3))
        written = len(list((folder / "out").iterdir())) if (folder / "out").is_dir() else 0
        assert (written == TOGETHER) == (code == 0)
        tally.harmless += written

    several()
    return tally


def test_mutated_checkpoints(tmp_path: Path, model: Path) -> None:
    tally = try_checkpoints(tmp_path, 400)
    assert tally.inputs >= 400
    # damage that is always refused at the door would prove little
    assert 10 < tally.harmless < 390


def test_mutated_configurations(tmp_path: Path, trained: Path, data_dir: Path) -> None:
    tally = try_configurations(tmp_path, trained, data_dir, 100)
    assert tally.inputs >= 100
    assert tally.codes[4] > 10


def test_mutated_pictures(tmp_path: Path, model: Path) -> None:
    tally = try_pictures(tmp_path, model, 500)
    assert tally.inputs >= 500
    assert 20 < tally.harmless < 480


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutated_inputs(tmp_path: Path, model: Path, trained: Path, data_dir: Path) -> None:
    """10,000 checkpoints, a fifth of them configurations, and 5,000 pictures; writes the log."""
    lines = []
    for folder in ("weights", "config", "pictures"):
        (tmp_path / folder).mkdir()
    lines.append(try_checkpoints(tmp_path / "weights", 8000).line("weights", "sample -m"))
    found = try_configurations(tmp_path / "config", trained, data_dir, 2000)
    lines.append(found.line("config.json", "eval -m"))
    seen = try_pictures(tmp_path / "pictures", model, 5000)
    lines.append(seen.line("pictures", f"reconstruct, {TOGETHER} at a time"))
    LOG.write_text("".join(lines))
