from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from conftest import Vaecli
from vaecli.data.dataset import Dataset
from vaecli.data.named import cifar, downloads, sets
from vaecli.data.named.mirrors import DOWNLOADS, Downloads
from vaecli.data.reading import Reading
from vaecli.errors import DataError, EnvironmentFailure

PER_BATCH = 4
RNG = np.random.default_rng(0)
LABELS = {name: RNG.integers(0, 10, PER_BATCH, np.uint8) for name in (*cifar.TRAIN, *cifar.TEST)}
PIXELS = {name: RNG.integers(0, 256, (PER_BATCH, 3, 32, 32), np.uint8) for name in LABELS}


def record(label: int, pixels: NDArray[np.uint8]) -> bytes:
    """As the set's page says: the label, then 1,024 red, 1,024 green and 1,024 blue bytes."""
    return bytes([label]) + b"".join(pixels[colour].tobytes() for colour in range(3))


BATCHES = {name: b"".join(map(record, LABELS[name].tolist(), PIXELS[name])) for name in LABELS}


def archive(batches: Mapping[str, bytes], folder: str = "cifar-10-batches-bin/") -> bytes:
    """As the official archive: its folder, a text and a page beside the six batches."""
    file = io.BytesIO()
    others = {"batches.meta.txt": b"airplane\n", "readme.html": b"<html>"}
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        top = tarfile.TarInfo(folder.rstrip("/") or ".")
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, data in {**others, **batches}.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


ARCHIVE = archive(BATCHES)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    served = tmp_path / "served"
    served.mkdir()
    (served / cifar.ARCHIVE).write_bytes(ARCHIVE)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def sources(mirror: str, data: bytes = ARCHIVE) -> Downloads:
    return Downloads([mirror], {cifar.ARCHIVE: hashlib.md5(data).hexdigest()}, 5.0)


def require_right(found: Dataset | None) -> None:
    assert found is not None
    assert found.name == "cifar10"
    for images, names in ((found.train, cifar.TRAIN), (found.test, cifar.TEST)):
        assert images.labels is not None
        assert isinstance(images.pixels, np.ndarray)
        assert np.array_equal(images.pixels, np.concatenate([PIXELS[name] for name in names]))
        assert np.array_equal(images.labels, np.concatenate([LABELS[name] for name in names]))


def test_downloaded_once_then_read_from_the_cache(tmp_path: Path, mirror: str) -> None:
    data_dir, told = tmp_path / "data", list[tuple[str, int, int | None]]()
    reading = Reading(data_dir, report=pytest.fail, progress=lambda *step: told.append(step))
    found = downloads.load("cifar10", reading, sources(mirror))
    require_right(found)
    assert told[-1] == (cifar.ARCHIVE, len(ARCHIVE), len(ARCHIVE))
    kept = {str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file()}
    assert {cifar.ARCHIVE, "vaecli/cifar10/images.safetensors"} <= kept
    (data_dir / cifar.ARCHIVE).unlink()
    require_right(downloads.load("cifar10", Reading(data_dir, download=False)))
    # a damaged cache is made anew from the archive
    (data_dir / cifar.ARCHIVE).write_bytes(ARCHIVE)
    cached = data_dir / "vaecli/cifar10/images.safetensors"
    cached.write_bytes(cached.read_bytes()[:-1] + b"?")
    problems: list[str] = []
    require_right(sets.find("cifar10", data_dir, report=problems.append))
    assert ["SHA-256" in problem for problem in problems] == [True]
    require_right(sets.find("cifar10", data_dir, report=pytest.fail))


def test_an_archive_with_another_md5_is_not_kept(tmp_path: Path, mirror: str) -> None:
    data_dir = tmp_path / "data"
    with pytest.raises(EnvironmentFailure, match="MD5 is wrong"):
        downloads.download("cifar10", Reading(data_dir), sources(mirror, b"other"))
    assert not (data_dir / cifar.ARCHIVE).exists()
    assert DOWNLOADS[cifar.NAME].md5[cifar.ARCHIVE] == "c32a1d4ab5d03f1284b67883e8d87530"


def test_the_archive_and_its_folder_are_found_without_network(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / cifar.ARCHIVE).write_bytes(ARCHIVE)
    unpacked = tmp_path / "unpacked" / cifar.FOLDER
    unpacked.mkdir(parents=True)
    for name, data in BATCHES.items():
        (unpacked / name).write_bytes(data)
    for folder in (tmp_path / "packed", tmp_path / "unpacked", unpacked):
        require_right(sets.find("cifar10", folder, report=pytest.fail))
    (unpacked / "test_batch.bin").unlink()
    problems: list[str] = []
    assert sets.find("cifar10", tmp_path / "unpacked", report=problems.append) is None
    assert ["test_batch.bin" in problem for problem in problems] == [True]
    assert sets.find("cifar10", tmp_path / "no such folder", report=pytest.fail) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ARCHIVE[:-50], "CIFAR-10 archive"),
        (ARCHIVE[:700], "CIFAR-10 archive"),
        (b"", "CIFAR-10"),
        (b"<html>", "CIFAR-10 archive"),
        (gzip.compress(b"no tar" * 1000, mtime=0), "CIFAR-10 archive"),
        (archive({**BATCHES, "data_batch_3.bin": b"\0" * 3072}), r"data_batch_3\.bin: 3,072 bytes"),
        (archive({**BATCHES, "data_batch_3.bin": b""}), r"data_batch_3\.bin: 0 bytes"),
        (archive({**BATCHES, "test_batch.bin": b"\n" + b"\0" * 3072}), "label is above 9"),
        (archive({k: v for k, v in BATCHES.items() if "4" not in k}), "data_batch_4.bin not found"),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DataError, match=why):
        cifar.parse_archive(data, "here")


def test_a_bomb_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "LIMIT", 1 << 20)
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        cifar.parse_archive(archive({"a": bytes(1 << 22), **BATCHES}), "here")


def test_names_in_an_archive_reach_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_right(cifar.parse_archive(archive(BATCHES, "../../escaped/"), "here"))
    assert list(tmp_path.parent.glob("escaped")) == []


def test_reading_the_set_imports_neither_torchvision_nor_pickled_batches(tmp_path: Path) -> None:
    (tmp_path / cifar.ARCHIVE).write_bytes(ARCHIVE)
    script = (
        "import sys, pathlib; from vaecli.data.named import downloads as named\n"
        "from vaecli.data.reading import Reading\n"
        "assert named.load('cifar10', Reading(pathlib.Path(sys.argv[1]), download=False))\n"
        "print('torchvision' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "False\n"


def test_absent_and_offline_says_where_to_put_what(vaecli: Vaecli) -> None:
    outcome = vaecli("train", "-d", "cifar10", "--no-download", "--data-dir", "sets")
    assert outcome.code == 5
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz into sets" in outcome.err
