"""idx files: what is read, and what is refused without filling the memory."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vaecli.data.dataset import Dataset, join
from vaecli.data.named import idx
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import DataError

REAL = Path(
    os.environ.get("VAECLI_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"), "MNIST/raw"
)


Bytes = NDArray[np.uint8]


def encode(array: Bytes) -> bytes:
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


IMAGES = (np.arange(3 * 28 * 28) % 251).astype(np.uint8).reshape(3, 28, 28)
LABELS = np.array([7, 0, 9], np.uint8)


@pytest.mark.parametrize("array", [IMAGES, LABELS], ids=["idx3", "idx1"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["file", "file.gz"])
def test_reads_by_content_whatever_the_name(
    tmp_path: Path, array: Bytes, packed: bool, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(encode(array)) if packed else encode(array))
    assert np.array_equal(idx.read_idx(path), array)


def test_reads_a_gzip_file_of_several_members(tmp_path: Path) -> None:
    data = encode(IMAGES)
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]))
    assert np.array_equal(idx.read_idx(path), IMAGES)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_every_truncation_is_damage_that_names_the_file(tmp_path: Path, packed: bool) -> None:
    data = gzip.compress(encode(LABELS)) if packed else encode(LABELS)
    path = tmp_path / "short"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError) as caught:
            idx.read_idx(path)
        assert str(path) in caught.value.message


def test_a_flipped_bit_in_gzip_data_is_seen(tmp_path: Path) -> None:
    data = gzip.compress(encode(IMAGES), mtime=0)
    path = tmp_path / "flipped.gz"
    for position in range(12, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(DataError):
            idx.read_idx(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "does not start"),
        (b"<!DOCTYPE html><html>", "does not start"),
        (b"\0\0\x0d\x03" + bytes(100), "does not start"),  # floats
        (b"\0\0\x08\x02" + bytes(100), "does not start"),  # rank 2
        (b"\0\0\x08\x03\0\0", "ends inside its header"),
        (b"\0\0\x08\x01" + bytes(4), "declares 0 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "declares"),
        (encode(LABELS) + b"x", "more follow"),
        (encode(LABELS)[:-1], "declares 3 bytes, 2 follow"),
    ],
)
def test_refusals_say_why(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(DataError, match=why):
        idx.read_idx(path)


@pytest.mark.parametrize("promised", [3, 2**31], ids=["small promise", "huge promise"])
def test_a_gzip_bomb_does_not_fill_the_memory(promised: int) -> None:
    header = b"\0\0\x08\x01" + promised.to_bytes(4, "big")
    bomb = gzip.compress(header + bytes(64 * 1024**2), compresslevel=1)
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            idx.parse_idx(bomb, "bomb")
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(idx.LIMIT + 1)
    with pytest.raises(DataError, match="more than the limit"):
        idx.read_idx(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(DataError, match="not a regular file"):
        idx.read_idx(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        idx.read_idx(tmp_path / "none")


@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        (IMAGES, LABELS[:2], "3 images but 2 labels"),
        (IMAGES[:, :14], LABELS, "28 x 28"),
        (LABELS, LABELS, "28 x 28"),
        (IMAGES, IMAGES, "28 x 28"),
    ],
)
def test_files_that_make_no_set_are_refused(images: Bytes, labels: Bytes, why: str) -> None:
    arrays = dict(zip(idx.FILES, (IMAGES, LABELS, images, labels), strict=True))
    with pytest.raises(DataError, match=why):
        idx.assemble("mnist", arrays, "here")


def load(path: Path) -> Dataset:
    return prepare.load(path, Options(), Reading(path.parent / "cache"))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images.idx3-ubyte", "x-images"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_one_file_is_a_set_with_the_labels_beside_it(
    tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(gzip.compress(encode(IMAGES)) if suffix else encode(IMAGES))
    assert join([(found := load(path)).train, found.test]).labels is None
    beside = name.replace("images", "labels").replace("idx3", "idx1")
    (tmp_path / beside).write_bytes(encode(LABELS))
    shutil.rmtree(tmp_path / "cache")
    found = load(path)
    whole = join([found.train, found.test])
    order = [int(place.split("[")[1][:-1]) for place in whole.paths or ()]
    assert np.array_equal(whole.pixels[:], IMAGES[order][:, None])
    assert whole.labels is not None
    assert [whole.class_name(int(label)) for label in whole.labels] == [
        str(int(LABELS[i])) for i in order
    ]


def test_labels_of_other_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x-images").write_bytes(encode(IMAGES))
    (tmp_path / "x-labels").write_bytes(encode(LABELS[:2]))
    with pytest.raises(DataError, match="2 labels for the 3 images of x-images"):
        load(tmp_path / "x-images")
    with pytest.raises(DataError, match="it holds labels: give the file of the images"):
        load(tmp_path / "x-labels")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real MNIST: set VAECLI_TEST_DATA")
def test_real_mnist(tmp_path: Path) -> None:
    problems: list[str] = []
    dataset = idx.read_folder("mnist", REAL, problems.append)
    assert dataset is not None
    assert not problems
    assert dataset.train.pixels.shape == (60_000, 1, 28, 28)
    assert dataset.test.pixels.shape == (10_000, 1, 28, 28)
    assert dataset.test.labels is not None
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    with gzip.open(REAL / "t10k-images-idx3-ubyte.gz") as file:
        expected = hashlib.sha256(file.read()[16:]).hexdigest()
    assert hashlib.sha256(np.asarray(dataset.test.pixels).tobytes()).hexdigest() == expected
