"""A data set that was replaced in place: noticed, whatever keeps its size and time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Vaecli
from vaecli.data.dataset import Dataset, join
from vaecli.data.origin import Options
from vaecli.data.own import decode_threads, prepare
from vaecli.data.reading import Reading
from vaecli.errors import ExitCode
from vaecli.system import files

WHEN = 315_532_800 * 10**9  # 1980, as archives without times have it
SUFFIXES = ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm", "pgm")


def load(path: Path) -> Dataset:
    return prepare.load(path, Options(), Reading(path.parent / "cache"))


def replace_in_place(path: Path, data: bytes) -> None:
    """The same inode, size and modification time."""
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(WHEN, WHEN))


def encoded(level: int, suffix: str) -> bytes:
    image = Image.new("L", (8, 8), level)
    image.putpixel((2, 3), 200)
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM"}.get(suffix, suffix.upper()))
    return file.getvalue()


def pictures(root: Path, suffix: str) -> Callable[[], None]:
    """Five of 30, and what replaces them; the shorter ones are filled up behind their end."""
    before, after = encoded(30, suffix), encoded(90, suffix)
    size = max(len(before), len(after))
    root.mkdir()
    for place in range(5):
        (root / f"{place}.{suffix}").write_bytes(before.ljust(size, b"\0"))
        os.utime(root / f"{place}.{suffix}", ns=(WHEN, WHEN))

    def replace() -> None:
        for path in root.iterdir():
            replace_in_place(path, after.ljust(size, b"\0"))

    return replace


def array(path: Path) -> Callable[[], None]:
    def content(level: int) -> bytes:
        file = io.BytesIO()
        images = np.full((5, 8, 8), level, np.uint8)
        images[:, 3, 2] = 200
        np.save(file, images) if path.suffix == ".npy" else np.savez(file, images=images)
        return file.getvalue()

    path.write_bytes(content(30))
    os.utime(path, ns=(WHEN, WHEN))
    return lambda: replace_in_place(path, content(90))


@pytest.mark.parametrize("change_time", [True, False])
@pytest.mark.parametrize("kind", [*SUFFIXES, "npy", "npz"])
def test_every_format_replaced_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, change_time: bool
) -> None:
    """By the change time, and by the content where a system has no such time."""
    monkeypatch.setattr(files, "HAS_CHANGE_TIME", change_time and files.HAS_CHANGE_TIME)
    path = tmp_path / (f"x.{kind}" if kind[:2] == "np" else "p")
    replace = array(path) if kind[:2] == "np" else pictures(path, kind)
    found = [path] if path.is_file() else sorted(path.iterdir())
    before = [(file.stat().st_size, file.stat().st_mtime_ns) for file in found]

    def level() -> int:
        dataset = load(path)
        pixels = np.asarray(join([dataset.train, dataset.test]).pixels)
        assert len(pixels) == 5
        return round(float(np.median(pixels)))

    assert abs(level() - 30) <= 2
    replace()
    assert [(file.stat().st_size, file.stat().st_mtime_ns) for file in found] == before
    assert abs(level() - 90) <= 2


def test_a_new_change_time_alone_prepares_again_and_refuses_nothing(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = pictures(Path("p").absolute(), "bmp")
    small = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1", "-q", "--data-dir", "cache")
    command = ("train", "--data", "p", *small, "-o", "run")
    assert vaecli(*command).code == 0
    made = []
    decode_all = decode_threads.decode_all

    def counted(*arguments: Any, **options: Any) -> Iterator[decode_threads.Decoded]:
        made.append(1)
        return decode_all(*arguments, **options)

    monkeypatch.setattr(decode_threads, "decode_all", counted)
    assert vaecli(*command).code == 0
    assert not made
    for path in Path("p").iterdir():
        replace_in_place(path, path.read_bytes())
    assert vaecli(*command).code == 0
    assert made
    assert vaecli("train", "--resume", "run", "--data-dir", "cache").code == 0
    replace()
    for again in (command, ("train", "--resume", "run", "--data-dir", "cache")):
        outcome = vaecli(*again)
        assert outcome.code == ExitCode.MODEL
        assert "with other content" in outcome.err
