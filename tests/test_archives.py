"""Archives of images: read as the folder they were made of, and never beyond what is allowed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Vaecli
from vaecli.data.dataset import Dataset, join
from vaecli.data.origin import Options
from vaecli.data.own import archive_members, archives, prepare
from vaecli.data.reading import Reading
from vaecli.data.splits_and_classes import HIDDEN
from vaecli.errors import DataError, ExitCode

KINDS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"]
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.xz": lzma.compress,
    ".tar.bz2": bz2.compress,
}


def png(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = {
    **{f"set/train/{'ab'[i % 2]}/{i}.png": png(i) for i in range(12)},
    **{f"set/test/{'ab'[i % 2]}/{i}.PNG": png(i) for i in range(12, 16)},
    "set/READ ME.txt": b"hello",
    "set/train/a/.hidden.png": b"x",
    "__MACOSX/set/train/a/._0.png": b"x",
}


def make(path: Path, contents: dict[str, bytes], *, first: tuple[str, ...] = ()) -> Path:
    """An archive of the kind its name says."""
    file = io.BytesIO()
    kind = archive_members.suffix_of(path)
    if kind == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in first:
                archive.writestr(zipfile.ZipInfo(name), b"")
            for name, data in contents.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=file, mode="w") as tape:
            for name, data in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tape.addfile(member, io.BytesIO(data))
    path.write_bytes(PACK.get(kind, bytes)(file.getvalue()))
    return path


@pytest.fixture
def load(tmp_path: Path) -> Callable[[Path], Dataset]:
    def call(path: Path) -> Dataset:
        return prepare.load(path, Options(), Reading(tmp_path / "cache"))

    return call


def unpack(path: Path, cache: Path) -> tuple[Path, Counter[str]]:
    found = archives.unpack(path, Reading(cache))
    return found.folder, found.others


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_the_folder_it_was_made_of(
    load: Callable[[Path], Dataset], tmp_path: Path, kind: str
) -> None:
    for name, data in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    expected, found = load(tmp_path / "folder"), load(make(tmp_path / f"x{kind}", FILES))
    assert found.name == "x"
    assert (len(found.train), len(found.test)) == (12, 4)
    assert found.fingerprint() == expected.fingerprint()
    assert found.train.paths == expected.train.paths
    assert found.test.paths == expected.test.paths
    assert found.origin is not None
    assert found.origin.location == str(tmp_path / f"x{kind}")
    whole = join([found.train, found.test])
    assert whole.labels is not None
    assert whole.labels.tolist() == ["ab".index(path.split("/")[2]) for path in whole.paths or ()]


@pytest.mark.parametrize("kind", [".zip", ".tar.gz"])
def test_it_is_unpacked_once_and_again_when_it_changed(tmp_path: Path, kind: str) -> None:
    path, cache = make(tmp_path / f"x{kind}", FILES), tmp_path / "cache"
    first, others = unpack(path, cache)
    assert others == {".txt": 1, HIDDEN: 1}
    marked = first / "set/train/a/0.png"
    os.utime(marked, ns=(1, 1))
    assert unpack(path, cache)[0] == first
    assert marked.stat().st_mtime_ns == 1
    marked.write_bytes(b"")  # as a power loss may leave it
    assert unpack(path, cache)[0] == first
    assert marked.read_bytes() == FILES["set/train/a/0.png"]
    before = path.stat()
    make(path, {**FILES, "set/train/a/0.png": png(99)})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second, _ = unpack(path, cache)
    assert (second / "set/train/a/0.png").read_bytes() == png(99)
    assert not first.exists()


def test_what_was_unpacked_in_part_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = make(tmp_path / "x.zip", FILES), tmp_path / "cache"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            unpack(path, cache)
    (folder,) = (cache / "vaecli/unpacked").glob("*/images-*")
    (folder / "set/train/a/0.png").unlink()
    (folder / "set/train/b/left-over.png").write_bytes(b"x")
    found = unpack(path, cache)[0]
    assert found == folder
    assert (found / "set/train/a/0.png").read_bytes() == png(0)
    assert not (found / "set/train/b/left-over.png").exists()


# ---------------------------------------------------------------------- refused


def tape(*members: tuple[str, bytes | None, bytes], data: bytes = b"") -> bytes:
    """A tar of members: name, target of a link, type."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, target, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, (target or b"").decode()
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def zipped(name: str, mode: int = 0, **changes: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        archive.writestr(member, png(0))
    return file.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped("a.png"))
    for mark, place in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(mark) + place] |= 1
    return bytes(data)


def lying(size: int) -> bytes:
    """A zip whose member says it has `size` bytes."""
    data = bytearray(zipped("a.png"))
    struct.pack_into("<I", data, data.index(b"PK\1\2") + 24, size)
    struct.pack_into("<I", data, data.index(b"PK\3\4") + 22, size)
    return bytes(data)


def wide_header() -> bytes:
    """A tar whose header with a long name has 100 MB."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 100 * 2**20
    return member.tobuf() + bytes(member.size) + bytes(1024)


LINK = 0o120777
WHOLE_TAR = tape(("a.png", None, tarfile.REGTYPE), data=png(0))
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "zip up": ("x.zip", zipped("../a.png"), "leads out of the archive"),
    "zip up, in the middle": ("x.zip", zipped("a/../../a.png"), "leads out of the archive"),
    "zip up, in Windows' spelling": ("x.zip", zipped("a\\..\\..\\b.png"), "leads out"),
    "zip up, no image": ("x.zip", zipped("../.bashrc"), "leads out of the archive"),
    "zip absolute": ("x.zip", zipped("/tmp/a.png"), "is absolute"),
    "zip of a drive": ("x.zip", zipped("C:/a.png"), "is absolute"),
    "zip of a share": ("x.zip", zipped("\\\\host\\a.png"), "is absolute"),
    "zip with a link": ("x.zip", zipped("a.png", LINK), "it is a link"),
    "encrypted": ("x.zip", encrypted(), "it is encrypted"),
    "zip, too short": ("x.zip", lying(10**6), "does not have 1,000,000 bytes"),
    "zip, too long": ("x.zip", lying(10), "a.png"),
    "zip, cut off": ("x.zip", zipped("a.png")[:-30], "not a zip file, or it is truncated"),
    "zip, flipped": ("x.zip", zipped("a.png").replace(b"IDAT", b"IDAU"), "CRC|zlib|invalid|Error"),
    "no zip": ("x.zip", b"<html>", "not a zip file"),
    "tar up": ("x.tar", tape(("../a.png", None, tarfile.REGTYPE)), "leads out"),
    "tar absolute": ("x.tar", tape(("/a.png", None, tarfile.REGTYPE)), "is absolute"),
    "tar with a link": ("x.tar", tape(("a.png", b"/etc/passwd", tarfile.SYMTYPE)), "it is a link"),
    "tar, hard link": ("x.tar", tape(("a.png", b"b.png", tarfile.LNKTYPE)), "it is a link"),
    "tar with a FIFO": ("x.tar", tape(("a.png", None, tarfile.FIFOTYPE)), "not a regular file"),
    "tar twice": (
        "x.tar",
        tape(*[("a.png", None, tarfile.REGTYPE)] * 2),
        "another file in the archive",
    ),
    "tar, file as folder": (
        "x.tar",
        tape(("a.png", None, tarfile.REGTYPE), ("a.png/b.png", None, tarfile.REGTYPE)),
        "another file in the archive",
    ),
    "tar, cut off": ("x.tar", WHOLE_TAR[:1024], "truncated"),
    "tar, no end": (
        "x.tar",
        WHOLE_TAR[: 512 + 512 * -(-len(png(0)) // 512)],
        "end marker",
    ),
    "tar, broken header": (
        "x.tar",
        WHOLE_TAR[: 512 + 512 * -(-len(png(0)) // 512)] + b"x" * 512 + bytes(1024),
        "end marker",
    ),
    "tar, wide header": ("x.tar.gz", gzip.compress(wide_header(), 1), "a header in it has"),
    "gzip, cut off": ("x.tar.gz", gzip.compress(WHOLE_TAR)[:-20], "end-of-stream|EOF|ended"),
    "no tar": ("x.tar.xz", b"\xfd7zXZ\0" + bytes(100), "x.tar.xz: [A-Z]"),
    "two tars": ("x.tar", WHOLE_TAR * 2, "other data follows"),
    "nothing": ("x.tar", b"", "empty"),
    "no images": ("x.zip", zipped("notes.txt"), "no images in .*x.zip"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_is_refused_leaves_nothing(
    load: Callable[[Path], Dataset], tmp_path: Path, row: str
) -> None:
    name, data, why = REFUSED[row]
    (tmp_path / "in/side").mkdir(parents=True)
    path = tmp_path / "in/side" / name
    path.write_bytes(data)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=why):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert {path.name for path in left} <= {"lock", archives.INDEX}


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_a_bomb_stops_at_its_limit(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MIN_ARCHIVE_BYTES", 2**20)
    bomb = {f"{i}.bmp": bytes(2**20) for i in range(20)}
    path = make(tmp_path / f"x{kind}", bomb)
    assert path.stat().st_size < 2**20 / 4
    monkeypatch.setattr(archives, "MAX_ARCHIVE_RATIO", 4)
    with pytest.raises(DataError, match="it unpacks to more than 1,048,576 bytes"):
        unpack(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.bmp"))


def test_lists_and_images_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "x.zip", FILES)
    with monkeypatch.context() as patch:
        patch.setattr(archive_members, "MAX_ARCHIVE_DIRECTORY_BYTES", 100)
        with pytest.raises(DataError, match="its list of files takes"):
            unpack(path, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(archives, "MAX_ARCHIVE_IMAGES", 5)
        with pytest.raises(DataError, match="more than 5 files"):
            unpack(path, tmp_path / "cache")
    monkeypatch.setattr(archives, "MAX_IMAGE_BYTES", 50)
    with pytest.raises(DataError, match="more than 50"):
        unpack(path, tmp_path / "cache")


def test_a_zip_from_windows_has_folders_too(
    load: Callable[[Path], Dataset], tmp_path: Path
) -> None:
    contents = {name.replace("/", "\\"): data for name, data in FILES.items()}
    assert len(load(make(tmp_path / "x.zip", contents)).test) == 4


def test_files_are_read_and_written_with_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped("a.png", stat.S_IFREG | 0o4777))
    found = unpack(path, tmp_path / "cache")[0] / "a.png"
    assert not found.stat().st_mode & 0o111


def test_an_archive_trains_and_is_found_again(vaecli: Vaecli, tmp_path: Path) -> None:
    make(tmp_path / "x.zip", FILES)
    common: tuple[Any, ...] = ("--data-dir", "cache", "-q")
    small = ("--hidden", "8", "--latent-dim", "2", "--epochs", "1")
    outcome = vaecli("train", "--data", "x.zip", *small, "-o", "run", *common)
    assert outcome.code == 0, outcome.err
    outcome = vaecli("eval", "-m", "run", "--per-image", "-", *common)
    assert outcome.code == 0, outcome.err
    paths = [line.split(",")[1] for line in outcome.out.splitlines()[1:]]
    assert sorted(paths) == [f"set/test/{'ab'[i % 2]}/{i}.PNG" for i in (12, 14, 13, 15)]
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert vaecli("eval", "-m", "run", *common).code == ExitCode.DATA


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_a_web_dataset_says_the_class_of_each_sample_beside_it(
    load: Callable[[Path], Dataset], tmp_path: Path, kind: str
) -> None:
    contents: dict[str, bytes] = {"paper.cls": b"x" * 5000, "odd.cls": b"9"}
    for i in range(30):
        label = f"{i % 3 * 5}".encode()
        files_of_sample = [(f"./set/{i:03}.cls", label + b"\n"), (f"./set/{i:03}.seg.png", png(i))]
        contents |= dict(files_of_sample if i % 2 else reversed(files_of_sample))
    path = make(tmp_path / f"x{kind}", contents)
    for _ in ("unpacked now", "from the cache"):
        found = load(path)
        whole = join([found.train, found.test])
        assert whole.labels is not None
        numbers = [int(name.removeprefix("set/").split(".")[0]) for name in whole.paths or ()]
        assert sorted(numbers) == list(range(30))
        assert whole.labels.tolist() == [i % 3 * 5 for i in numbers]
    (labels,) = (tmp_path / "cache/vaecli/unpacked").glob("*/labels.json")
    labels.write_bytes(labels.read_bytes().replace(b"5", b"6", 1))
    assert load(path).fingerprint() == found.fingerprint()
    for name in [name for name in contents if name.startswith("./") and name.endswith("cls")]:
        del contents[name]
    plain = load(make(tmp_path / f"plain{kind}", contents))
    assert plain.train.labels is None
