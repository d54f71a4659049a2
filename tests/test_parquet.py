"""Images in Parquet files: read as the same images in files, and nothing hostile gets through."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Vaecli
from vaecli.data.dataset import Dataset, Images, join
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs vaecli[hub]"
)
pytestmark = needs_pyarrow

NAMES = ["cat", "dog", "eel"]


def png(seed: int, size: tuple[int, int] = (9, 9)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hub_images(contents: Sequence[bytes | None]) -> Any:
    """A column of images as the library `datasets` writes it."""
    import pyarrow as pa

    rows = [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(contents)]
    return pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))


def write(path: Path, columns: dict[str, Any], features: Any = None, **options: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(columns)
    if features is not None:
        about = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **{"row_group_size": 7, **options})
    return path


FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}


def hub_file(path: Path, seeds: Sequence[int], **more: Any) -> Path:
    columns = {"image": hub_images([png(i) for i in seeds]), "label": [i % 3 for i in seeds]}
    return write(path, {**columns, **more}, FEATURES)


Load = Callable[..., Dataset]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def call(path: Path, **options: Any) -> Dataset:
        return prepare.load(path, Options(**options), Reading(tmp_path / "cache"))

    return call


def rows(images: Images) -> list[int]:
    return [int(path[:-1].rpartition("[")[2]) for path in images.paths or ()]


def decoded(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data)))


def assert_are(images: Images, contents: Sequence[bytes]) -> None:
    """Each image is the one of its row."""
    for pixels, row in zip(images.pixels[:], rows(images), strict=True):
        np.testing.assert_array_equal(np.asarray(pixels)[0], decoded(contents[row]))


def test_rows_are_the_images_of_files(load: Load, tmp_path: Path) -> None:
    contents = [png(i) for i in range(50)]
    found = load(hub_file(tmp_path / "a b.parquet", range(50)))
    assert found.name == "a-b"
    assert sorted(rows(found.train) + rows(found.test)) == list(range(50))
    assert len(found.test) in range(1, 12)
    for images in (found.train, found.test):
        assert_are(images, contents)
        assert images.labels is not None
        assert images.labels.tolist() == [row % 3 for row in rows(images)]
    assert rows(found.train) != sorted(rows(found.train))  # as shuffled as files are
    assert found.train.class_name(1) == "dog"
    assert found.full_account.notes[0] == "images are column image, classes column label"
    assert not list((tmp_path / "cache").rglob("*rows*"))


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["data/train-00000-of-00002", "data/train-00001-of-00002", "data/test-00000-of-00001"],
         ["train", "train", "test"]),
        (["default/train/0000", "default/validation/0000", "default/test/0000"],
         ["train", "validation", "test"]),
        (["train", "val"], ["train", "test"]),
        (["train", "test", "unsupervised"], ["train", "test", None]),
    ],
)  # fmt: skip
def test_the_names_of_files_say_the_split(
    load: Load, tmp_path: Path, names: list[str], splits: list[str | None]
) -> None:
    for number, name in enumerate(names):
        hub_file(tmp_path / f"set/{name}.parquet", range(10 * number, 10 * number + 10))
    found = load(tmp_path / "set")
    for split, images in found.splits.items():
        expected = [name for name, its in zip(names, splits, strict=True) if its == split]
        files = {path.rpartition(".parquet[")[0] for path in images.paths or ()}
        assert files == set(expected), split
        assert len(images) == 10 * len(expected)
        for pixels, path in zip(images.pixels[:], images.paths or (), strict=True):
            name, _, row = path[:-1].rpartition(".parquet[")
            own = decoded(png(10 * names.index(name) + int(row)))
            np.testing.assert_array_equal(np.asarray(pixels)[0], own)
    assert len(found.splits) == len({*splits} - {None})
    if None in splits:
        assert "unsupervised.parquet" in " ".join(found.account.left_out_texts)


def test_columns_are_found_by_their_type(load: Load, tmp_path: Path) -> None:
    import pyarrow as pa

    contents = [png(i) for i in range(20)]
    plain = {"id": list(range(20)), "pixels": pa.array(contents, pa.large_binary())}
    found = load(write(tmp_path / "plain.parquet", plain))
    assert_are(found.train, contents)
    assert found.train.labels is None
    texts = [f"k{i % 2}" for i in range(20)]
    for name, values in {"label": texts, "Class": pa.array(texts).dictionary_encode()}.items():
        found = load(write(tmp_path / f"{name}.parquet", {**plain, name: values}))
        assert found.train.class_name(0) == "k0"
    both = {**plain, "coarse": [1] * 20, "fine": list(range(20))}
    labels = {name: {"_type": "ClassLabel"} for name in ("coarse", "fine")}
    path = write(tmp_path / "both.parquet", both, labels)
    found = load(path)
    assert found.train.labels is None
    assert "--label-column" in found.full_account.notes[0] + found.full_account.notes[1]
    found = load(path, label_column="fine")
    assert found.train.labels is not None
    assert found.train.labels.tolist() == rows(found.train)
    two = write(tmp_path / "two.parquet", {**plain, "mask": pa.array(contents[::-1])})
    with pytest.raises(DataError, match="several columns hold images: pixels, mask"):
        load(two)
    assert_are(load(two, image_column="mask").train, contents[::-1])


def test_paths_beside_the_file(load: Load, tmp_path: Path) -> None:
    contents = [png(i) for i in range(12)]
    folder = tmp_path / "set"
    (folder / "in").mkdir(parents=True)
    for i, data in enumerate(contents):
        (folder / f"in/{i}.bin").write_bytes(data)
    path = write(folder / "t.parquet", {"file": [f"in/{i}.bin" for i in range(12)]})
    with pytest.raises(DataError, match="no column holds images"):
        load(path)
    assert_are(load(path, image_column="file").train, contents)
    (tmp_path / "secret.png").write_bytes(contents[0])
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    for name, why in {
        "../secret.png": "leads out",
        str(tmp_path / "secret.png"): "absolute",
        "link.png": "leads out",
        "gone.png": "no such file",
        "in": "not a regular file",
    }.items():
        path = write(folder / "bad.parquet", {"file": [name] * 3})
        with pytest.raises(DataError, match=why):
            load(path, image_column="file")


def test_an_unlabelled_row_has_no_class_and_a_bad_one_is_refused(
    load: Load, tmp_path: Path
) -> None:
    images = hub_images([png(i) for i in range(40)])
    path = write(
        tmp_path / "a.parquet", {"image": images, "label": [-1, None, *[2] * 38]}, FEATURES
    )
    found = load(path)
    whole = join([found.train, found.test])
    assert whole.labels is not None
    known = dict(zip(rows(whole), whole.labels.tolist(), strict=True))
    assert {row for row, label in known.items() if label < 0} == {0, 1}
    path = write(tmp_path / "b.parquet", {"image": images, "label": [3] * 40}, FEATURES)
    with pytest.raises(DataError, match="outside its 3 classes"):
        load(path)


def test_bad_images_are_counted_as_in_a_folder(load: Load, tmp_path: Path) -> None:
    contents = [png(i) for i in range(40)]
    broken: list[bytes | None] = [*contents]
    broken[3], broken[7] = b"no picture", None
    path = write(tmp_path / "x.parquet", {"image": hub_images(broken)}, FEATURES)
    with pytest.raises(DataError, match=r"2 of 40 images.*x.parquet\[3\]"):
        load(path)
    found = load(path, skip_bad=True)
    assert len(found.train) + len(found.test) == 38
    assert_are(found.train, contents)


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in its header."""
    data = bytearray(png(0))
    data[16:24] = struct.pack(">II", 30000, 30000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def rows_in_header(path: Path, rows: int) -> Path:
    """A file whose footer says it has so many rows: a zigzag varint after the schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": pa.array([png(0)] * 100), "n": [0] * 100}), path)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")

    def varint(value: int) -> bytes:
        value, out = value * 2, b""
        while value > 127:
            out += bytes([value & 127 | 128])
            value >>= 7
        return out + bytes([value])

    head, tail = data[:footer], data[footer:-8]
    changed = tail.replace(b"\x16" + varint(100), b"\x16" + varint(rows))
    assert changed != tail
    path.write_bytes(head + changed + struct.pack("<I", len(changed)) + b"PAR1")
    return path


def refusals(folder: Path) -> dict[str, tuple[Path, str]]:
    folder.mkdir()
    numbers = write(folder / "numbers.parquet", {"image": [[1.0]] * 9, "label": [0.5] * 9})
    sound = hub_file(folder / "sound.parquet", range(9)).read_bytes()
    (folder / "cut.parquet").write_bytes(sound[:-20])
    (folder / "text.parquet").write_bytes(b"image,label\n" * 9)
    (folder / "empty.parquet").write_bytes(b"")
    huge = struct.pack("<I", 2**31)
    (folder / "footer.parquet").write_bytes(sound[:-8] + huge + sound[-4:])
    other = folder / "other"
    hub_file(other / "train.parquet", range(9))
    write(other / "test.parquet", {"image": [png(1)], "label": [0]})
    return {
        "bomb": (
            write(folder / "bomb.parquet", {"image": [bomb()] * 9}),
            "more than the limit|pixels",
        ),
        "numbers": (numbers, "no column holds images"),
        "rows": (rows_in_header(folder / "rows.parquet", 10**9), "1,000,000,000 rows"),
        "rows-that-are-not-there": (rows_in_header(folder / "few.parquet", 10**6), "damaged|rows"),
        "cut": (folder / "cut.parquet", "not a Parquet file|truncated"),
        "text": (folder / "text.parquet", "not a Parquet file"),
        "empty": (folder / "empty.parquet", "not a Parquet file"),
        "footer": (folder / "footer.parquet", "footer"),
        "no-rows": (write(folder / "none.parquet", {"image": hub_images([])}), "no rows"),
        "other-types": (other, "train.parquet: column image is struct"),
        "label": (write(folder / "l.parquet", {"image": [png(1)], "label": [0.5]}), ""),
    }


def test_hostile_files_are_refused_at_once(vaecli: Vaecli, tmp_path: Path) -> None:
    for name, (path, why) in refusals(tmp_path / "bad").items():
        if not why:
            continue
        start = time.monotonic()
        outcome = vaecli("train", "--data", path, "--dry-run", "--data-dir", tmp_path / "cache")
        assert outcome.code == ExitCode.DATA, (name, outcome.err)
        assert any(each in outcome.err for each in why.split("|")), (name, outcome.err)
        assert time.monotonic() - start < 2, name
    outcome = vaecli(
        *("train", "--data", tmp_path / "bad/l.parquet", "--label-column", "label", "--dry-run"),
        *("--data-dir", tmp_path / "cache"),
    )
    assert outcome.code == ExitCode.DATA
    assert "neither whole numbers nor text" in outcome.err


def test_mutated_files_give_documented_answers(tmp_path: Path) -> None:
    """The footer and page headers, where sizes are; pyarrow itself must survive them too."""
    sound = hub_file(tmp_path / "s.parquet", range(9)).read_bytes()
    path, reading = tmp_path / "m.parquet", Reading(tmp_path / "cache")
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(sound)
        for _ in range(draw.randint(1, 3)):
            start = draw.choice([footer, footer, 4])
            data[draw.randrange(start, len(data))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            prepare.load(path, Options(), reading)
        except DataError:
            refused += 1
    assert refused > 50


def test_train_and_eval_find_it_again(vaecli: Vaecli, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    hub_file(folder / "train.parquet", range(40), extra=[png(i) for i in range(40)])
    hub_file(folder / "test.parquet", range(40, 50), extra=[png(i) for i in range(10)])
    common = ("--data-dir", tmp_path / "cache", "-q")
    train = ("train", "--data", folder, "-e", "1", "--hidden", "8", "--latent-dim", "2", *common)
    assert vaecli(*train, "--image-column", "image", "-o", "run").code == 0
    outcome = vaecli("eval", "-m", "run", "--json", *common)
    assert json.loads(outcome.out)["n_images"] == 10
    source = json.loads(Path("run/state/source.json").read_text())
    assert [name for name, _, _ in source["files"]] == ["test.parquet", "train.parquet"]
    assert source["options"]["image_column"] == "image"
    assert vaecli(*train, "--image-column", "image", "-o", "run").code == 0  # finished
    hub_file(folder / "test.parquet", range(41, 51), extra=[png(i) for i in range(10)])
    outcome = vaecli("train", "--resume", "run", "-e", "2", *common)
    assert outcome.code != 0
    outcome = vaecli("eval", "-m", "run", "-d", folder / "test.parquet", "--json", *common)
    assert json.loads(outcome.out)["n_images"] == 10


def test_column_options_belong_to_parquet(vaecli: Vaecli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png(0))
    for data in (tmp_path / "photos", "digits"):
        outcome = vaecli("train", "--data", data, "--label-column", "x", "--dry-run")
        assert outcome.code == ExitCode.USAGE
        assert "--label-column" in outcome.err
    path = hub_file(tmp_path / "x.parquet", range(9))
    outcome = vaecli("train", "--data", path, "--label-column", "x", "--dry-run")
    assert outcome.code == ExitCode.DATA
    assert "There are image, label" in outcome.err
