"""Folders of images: what is found, what becomes of it, and what a run remembers."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Vaecli
from vaecli.config import ModelConfig
from vaecli.data import catalogue, image_file, picture_fit
from vaecli.data.dataset import Dataset, Images, join, static_binarized
from vaecli.data.levels import FULL
from vaecli.data.mapped import Mapped
from vaecli.data.origin import Options, Origin
from vaecli.data.own import decode_threads, folder, prepare, store
from vaecli.data.own.fast_decode import Decoder, Seen, ShapeRule
from vaecli.data.own.folder import Entry
from vaecli.data.picture_fit import Fitting
from vaecli.data.reading import Reading
from vaecli.errors import DataError, ExitCode
from vaecli.evaluation.evaluate import evaluate
from vaecli.model.vae import build

RNG = np.random.default_rng(0)
SMALL = ("--hidden", "16", "--latent-dim", "2", "--epochs", "2", "--batch-size", "16", "-q")


def picture(path: Path, size: tuple[int, int] = (12, 12), mode: str = "L") -> None:
    """A smooth random picture, so that JPEG changes little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    low = Image.fromarray(RNG.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    low.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Thirty grey pictures of 12 x 12 in nested folders."""
    for index in range(30):
        picture(tmp_path / f"photos/{'ab'[index % 2]}/{index:02d}.png")
    return tmp_path / "photos"


Load = Callable[..., Dataset]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def call(location: Path, **options: object) -> Dataset:
        settings = {k: options.pop(k) for k in list(options) if k in Options.__dataclass_fields__}
        asked, preparation = Options(**settings), options.pop("preparation", None)  # type: ignore[arg-type]
        reading = Reading(tmp_path / "cache", **options)  # type: ignore[arg-type]
        return prepare.load(location, asked, reading, preparation)  # type: ignore[arg-type]

    return call


# ------------------------------------------------------------------ what is found


def test_names_of_every_kind_are_found_and_hidden_ones_are_not(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    names = ["a b.png", "new\nline.PNG", "esc\x1b[31m.png", "bad\udcff.png", "-x.png", "日本.jpg"]
    for name in names:
        picture(root / "deep/er" / name)
    picture(root / ".hidden.png")
    picture(root / ".git/x.png")
    (root / "notes.txt").write_text("no image")
    found = folder.list_entries(root).entries
    assert [entry.path for entry in found] == sorted(f"deep/er/{name}" for name in names)
    assert all(entry.size > 0 and entry.time > 0 for entry in found)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    picture(root / "real/1.png")
    picture(tmp_path / "elsewhere/2.png")
    (root / "a-loop").symlink_to(root)
    (root / "real/loop").symlink_to(root / "real")
    (root / "self").symlink_to("self")
    (root / "a-again").symlink_to(root / "real")
    (root / "outside").symlink_to(tmp_path / "elsewhere")
    (root / "file.png").symlink_to(root / "real/1.png")
    paths = [entry.path for entry in folder.list_entries(root).entries]
    assert paths == ["file.png", "outside/2.png", "real/1.png"]


def test_class_folders_become_labels(load: Load, photos: Path) -> None:
    dataset = load(photos)
    for part in (dataset.train, dataset.test):
        assert part.paths is not None
        assert part.labels is not None
        assert part.labels.tolist() == ["ab".index(path[0]) for path in part.paths]
    picture(photos / "no-class.png")
    assert load(photos).train.labels is None


def test_numbered_classes_keep_their_numbers(load: Load, tmp_path: Path) -> None:
    for label in (2, 10):
        for index in range(5):
            picture(tmp_path / f"n/{label}/{index}.png")
    labels = join([(d := load(tmp_path / "n")).train, d.test]).labels
    assert labels is not None
    assert sorted(set(labels.tolist())) == [2, 10]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_split_folders_are_honoured(load: Load, tmp_path: Path, held_out: str) -> None:
    for split, count in (("train", 4), (held_out, 3), ("other", 2)):
        for index in range(count):
            picture(tmp_path / f"s/{split}/{'cat' if index % 2 else 'dog'}/{index}.png")
    dataset = load(tmp_path / "s", test_fraction=0.9)
    assert (len(dataset.train), len(dataset.test)) == (4, 3)
    assert dataset.test.paths is not None
    assert all(path.startswith(f"{held_out}/") for path in dataset.test.paths)
    assert dataset.train.labels is not None
    assert sorted(dataset.train.labels.tolist()) == [0, 0, 1, 1]


def test_the_split_is_the_hash_of_the_path_alone() -> None:
    """10,000 paths: a tenth held out, in order of the hash; no earlier one moves for 10 more."""
    entries = [Entry(f"photos/{index}.jpg") for index in range(10_000)]
    order, n_test, _ = folder.split_order(entries, 0.1)
    assert abs(n_test - 1000) < 4 * 30  # four standard deviations
    held_out = {entry.path for entry in order[:n_test]}
    more = [*(Entry(f"new/{index}.jpg") for index in range(10)), *reversed(entries)]
    order_2, n_test_2, _ = folder.split_order(more, 0.1)
    old = {entry.path for entry in order_2[:n_test_2] if entry.path.startswith("photos/")}
    assert old == held_out
    shares = [entry.share for entry in order]
    assert shares[:n_test] == sorted(shares[:n_test], reverse=True)
    assert shares[n_test:] == sorted(shares[n_test:])
    digest = hashlib.sha256(b"photos/1.jpg").hexdigest()
    assert Entry("photos/1.jpg").share == int(digest[:14], 16) / 16**14


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_an_empty_side_gets_the_smallest_hash(load: Load, photos: Path, fraction: float) -> None:
    said: list[str] = []
    dataset = load(photos, test_fraction=fraction, report=said.append)
    lonely = min(dataset.train, dataset.test, key=len)
    smallest = min(folder.list_entries(photos).entries, key=lambda entry: entry.share).path
    assert lonely.paths == (smallest,)
    assert smallest in said[0]
    assert len(dataset.train) + len(dataset.test) == 30


def test_one_image_trains(vaecli: Vaecli, tmp_path: Path) -> None:
    picture(tmp_path / "one/only.png")
    outcome = vaecli("train", "--data", "one", *SMALL[:-1], "--data-dir", "cache", "-o", "run")
    assert outcome.code == 0, outcome.err
    assert "used for training and testing" in outcome.err


def test_limit_takes_hash_order(vaecli: Vaecli, photos: Path) -> None:
    command = ("train", "--data", photos, *SMALL, "--data-dir", "cache")
    assert vaecli(*command, "--limit", "5", "-o", "run").code == 0
    config = json.loads(Path("run/config.json").read_text())
    assert (config["data"]["n_train"], config["data"]["kind"]) == (5, "folder")
    order, n_test, _ = folder.split_order(folder.list_entries(photos).entries, 0.1)
    full = catalogue.load(str(photos), Reading(Path("cache")))
    assert full.train.paths is not None
    assert full.train.paths[:5] == tuple(entry.path for entry in order[n_test : n_test + 5])


# ------------------------------------------------------------------ what becomes of them


KINDS = [
    *((mode, "png") for mode in ("L", "RGB", "RGBA", "P", "1", "LA", "I;16")),
    *((mode, "jpg") for mode in ("RGB", "L", "CMYK")),
    *(("RGB", suffix) for suffix in ("webp", "bmp", "tiff", "ppm")),
    ("P", "gif"),
    ("L", "pgm"),
]


def test_pixels_are_those_of_the_careful_way(load: Load, tmp_path: Path) -> None:
    """Against `read_image` and `prepare`, on every format and mode, at sizes JPEG keeps."""
    for number, (mode, suffix) in enumerate(KINDS):
        path = tmp_path / f"m/{number}-{mode.replace(';', '')}.{suffix}"
        picture(path, (40 + number, 33), "L" if mode == "I;16" else mode)
        if mode == "I;16":
            Image.fromarray((RNG.integers(0, 65536, (33, 40))).astype(np.uint16)).save(path)
    turned = Image.open(tmp_path / "m/7-RGB.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "m/turned.jpg", exif=exif)
    dataset = load(tmp_path / "m")
    everything = join([dataset.test, dataset.train])
    assert everything.paths is not None
    assert len(everything) == 17
    for pixels, name in zip(everything.pixels[:], everything.paths, strict=True):
        expected, _ = picture_fit.prepare(
            image_file.read_image(tmp_path / "m" / name, name=name),
            (3, 64, 64),
            border=255,
            digits=False,
            fit="crop",
            invert="no",
            name=name,
        )
        assert np.array_equal(pixels, expected), name


def test_large_jpegs_are_decoded_small_and_hardly_differ(tmp_path: Path) -> None:
    picture(tmp_path / "large.jpg", (900, 700), "RGB")
    path = tmp_path / "large.jpg"
    rule = ShapeRule()
    small = Decoder((3, 64, 64), rule, Fitting(), FULL).read(path, "large", Seen()).astype(int)
    ((height, width),) = rule._sizes
    assert 96 <= height < 192
    assert height < width < 700
    expected, _ = picture_fit.prepare(
        image_file.read_image(path, name="large"),
        (3, 64, 64),
        border=255,
        digits=False,
        fit="crop",
        name="large",
    )
    assert abs(small - expected).max() <= 12
    assert abs(small - expected).mean() < 1


SHAPES = [
    ([(12, 12), (12, 12)], ["L", "L"], {}, (1, 12, 12)),
    ([(20, 12), (20, 12)], ["L", "L"], {}, (1, 12, 20)),
    ([(12, 12), (13, 12)], ["L", "L"], {}, (1, 64, 64)),
    ([(65, 65), (65, 65)], ["RGB", "RGB"], {}, (3, 64, 64)),
    ([(12, 12), (12, 12)], ["L", "RGB"], {}, (3, 12, 12)),
    ([(12, 12), (13, 12)], ["L", "RGB"], {"image_size": 8, "channels": 1}, (1, 8, 8)),
    ([(12, 12), (12, 12)], ["L", "L"], {"channels": 3}, (3, 12, 12)),
]


@pytest.mark.parametrize(("sizes", "modes", "options", "shape"), SHAPES)
def test_the_shape_is_as_found_or_as_asked(
    load: Load,
    tmp_path: Path,
    sizes: list[tuple[int, int]],
    modes: list[str],
    options: dict[str, int],
    shape: tuple[int, int, int],
) -> None:
    # forty of the first kind: whichever comes first, the odd one must change the answer
    for index in range(40):
        picture(tmp_path / f"x/{index}.png", sizes[0], modes[0])
    picture(tmp_path / "x/odd.png", sizes[1], modes[1])
    dataset = load(tmp_path / "x", **options)
    assert dataset.image_shape == shape
    assert len(dataset.train) + len(dataset.test) == 41


def test_a_photo_with_alpha_lies_on_white(load: Load, tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / "alpha").mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8), (200, 0, 0, 0)).save(tmp_path / f"alpha/{index}.png")
    assert np.unique(load(tmp_path / "alpha").train.pixels[:]).tolist() == [255]


# ------------------------------------------------------------------ bad files


def spoil(root: Path) -> list[str]:
    """Three of a kind that cannot be read."""
    (root / "a/html.png").write_text("<html>not here</html>")
    (root / "b/empty.jpg").write_bytes(b"")
    os.mkfifo(root / "a/fifo.png")
    return ["a/html.png", "b/empty.jpg", "a/fifo.png"]


def test_bad_files_are_named_or_skipped(vaecli: Vaecli, photos: Path) -> None:
    bad = spoil(photos)
    command = ("train", "--data", photos, *SMALL[:-1], "--data-dir", "cache", "-o", "run")
    refused = vaecli(*command)
    assert refused.code == ExitCode.DATA
    assert "3 of 33 images cannot be read" in refused.err
    assert "--skip-bad" in refused.err
    assert all(name in refused.err for name in bad)
    skipped = vaecli(*command, "--skip-bad")
    assert skipped.code == 0, skipped.err
    assert all(name in skipped.err for name in bad)
    assert json.loads(Path("run/config.json").read_text())["data"]["n_skipped"] == 3
    assert vaecli("eval", "-m", "run", "--data-dir", "cache").code == 0


def test_three_bad_files_of_a_thousand(vaecli: Vaecli, tmp_path: Path) -> None:
    for index in range(997):
        (tmp_path / f"many/{index % 7}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), index % 256).save(tmp_path / f"many/{index % 7}/{index}.png")
    bad = {"0/cut.png": b"\x89PNG\r\n\x1a\n", "3/none.jpg": b"", "6/page.png": b"<html>"}
    for name, content in bad.items():
        (tmp_path / "many" / name).write_bytes(content)
    command = ("train", "--data", "many", *SMALL[:-1], "--data-dir", "cache", "-o", "run")
    refused = vaecli(*command)
    assert refused.code == ExitCode.DATA
    assert "3 of 1,000 images cannot be read" in refused.err
    assert all(name in refused.err for name in bad)
    assert not Path("run").exists()
    assert vaecli(*command, "--skip-bad", "--batch-size", "256").code == 0
    recorded = json.loads(Path("run/config.json").read_text())["data"]
    assert recorded["n_train"] + recorded["n_test"] == 997
    assert recorded["n_skipped"] == 3
    judged = json.loads(vaecli("eval", "-m", "run", "--data-dir", "cache", "--json").out)
    assert judged["n_images"] == recorded["n_test"]


def test_bad_files_move_no_other_image(load: Load, photos: Path) -> None:
    before = load(photos, test_fraction=0.5)
    assert before.train.paths is not None
    assert before.test.paths is not None
    spoiled = {before.test.paths[0], before.test.paths[3], before.train.paths[2]}
    for name in spoiled:
        (photos / name).write_bytes(b"no picture")
    after = load(photos, test_fraction=0.5, skip_bad=True)
    assert after.train.paths == tuple(p for p in before.train.paths if p not in spoiled)
    assert after.test.paths == tuple(p for p in before.test.paths if p not in spoiled)


def test_more_than_a_tenth_bad_is_refused_all_the_same(vaecli: Vaecli, photos: Path) -> None:
    for index in range(4):
        (photos / f"a/broken{index}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (photos / "a/dangling.png").symlink_to("nowhere")
    outcome = vaecli("train", "--data", photos, *SMALL, "--data-dir", "cache", "--skip-bad")
    assert outcome.code == ExitCode.DATA
    assert "5 of 35" in outcome.err
    assert "a/dangling.png" in outcome.err
    assert not Path("runs").exists()


def test_the_first_ten_of_many_are_named(load: Load, photos: Path) -> None:
    for index in range(12):
        (photos / f"a/broken{index:02d}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"12 of 42.*and 2 more"):
        load(photos)


def test_no_image_is_exit_3_naming_the_formats(vaecli: Vaecli, tmp_path: Path) -> None:
    (tmp_path / "empty/sub").mkdir(parents=True)
    (tmp_path / "empty/readme.txt").write_text("x")
    outcome = vaecli("train", "--data", "empty", "--data-dir", "cache")
    assert outcome.code == ExitCode.DATA
    assert all(suffix in outcome.err for suffix in ("png", "jpg", "webp", "tiff", "gif", "ppm"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("--image-size", "0"), ("--channels", "2"), ("--test-fraction", "1"), ("--data", "file.txt")],
)
def test_bad_values(vaecli: Vaecli, photos: Path, option: str, value: str) -> None:
    Path("file.txt").write_text("x")
    arguments = ["train", "--data", photos, "--data-dir", "cache", option, value]
    outcome = vaecli(*arguments)
    assert outcome.code == ExitCode.USAGE
    assert option in outcome.err


def test_folder_options_are_refused_for_named_sets(vaecli: Vaecli, data_dir: Path) -> None:
    outcome = vaecli("train", "--data", "mnist", "--image-size", "32", "--data-dir", data_dir)
    assert outcome.code == ExitCode.USAGE
    assert "--image-size" in outcome.err


# ------------------------------------------------------------------ the cache


def test_a_second_start_decodes_nothing(
    load: Load, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(photos)

    def explode(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(Decoder, "read", explode)
    again = load(photos)
    assert again.fingerprint() == first.fingerprint()
    assert again.train.paths == first.train.paths
    os.utime(photos / "a/00.png", ns=(1, 1))
    with pytest.raises(AssertionError, match="decoded again"):
        load(photos)


def test_two_at_once_prepare_once(
    load: Load, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the lock alone, which is a file's: of two threads as of two processes."""
    make, made = prepare._make, []
    told: list[str] = []

    def slow(*arguments: Any) -> None:
        made.append(arguments[0])
        time.sleep(0.3)
        make(*arguments)

    monkeypatch.setattr(prepare, "_make", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: load(photos, report=told.append), range(2))
    assert len(made) == 1
    assert [text.endswith("waiting for it") for text in told] == [True]
    assert first.fingerprint() == second.fingerprint()


def raw_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.raw"))


def test_an_interruption_leaves_nothing_half_valid(
    load: Load, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_batch = decode_threads._decode_batch

    def interrupted(*arguments: object) -> object:
        if arguments[-2].start:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return decode_batch(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode_threads, "_BATCH", 8)
    with monkeypatch.context() as patch:
        patch.setattr(decode_threads, "_decode_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(photos)
    assert raw_files(tmp_path) == []
    with monkeypatch.context() as patch:  # the raw file is there, its index is not
        patch.setattr(store, "commit", interrupted)
        with pytest.raises((KeyboardInterrupt, AttributeError)):
            load(photos)
    assert len(raw_files(tmp_path)) == 1
    assert not list((tmp_path / "cache").rglob("index.json"))
    assert len(load(photos).train) + len(load(photos).test) == 30


def test_a_damaged_cache_is_made_again(load: Load, photos: Path, tmp_path: Path) -> None:
    first = load(photos)
    (raw,) = raw_files(tmp_path)
    for damage in (b"", raw.read_bytes()[:-1], raw.read_bytes()[:-1] + b"\x00\x01"[:1]):
        raw.write_bytes(damage)
        said: list[str] = []
        assert load(photos, report=said.append).fingerprint() == first.fingerprint()
        assert "damaged" in said[0]
    index = next((tmp_path / "cache").rglob("index.json"))
    index.write_text(index.read_text().replace("a/00.png", "a/99.png"))
    assert load(photos).train.paths == first.train.paths


def test_old_preparations_of_a_folder_are_removed(load: Load, photos: Path, tmp_path: Path) -> None:
    load(photos)
    picture(photos / "a/new.png")
    load(photos)
    assert len(raw_files(tmp_path)) == 1


def test_a_cache_that_cannot_be_written(vaecli: Vaecli, photos: Path) -> None:
    Path("file").write_text("x")
    outcome = vaecli("train", "--data", photos, "--data-dir", "file", *SMALL)
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "--data-dir" in outcome.err


# ------------------------------------------------------------------ runs


TRAIN = ("train", "--data", "photos", *SMALL, "--data-dir", "cache")


def test_a_run_keeps_no_path_but_finds_its_images(vaecli: Vaecli, photos: Path) -> None:
    assert vaecli(*TRAIN, "-o", "run").code == 0
    for name in ("config.json", "README.md", "metrics.csv", "model.safetensors"):
        assert str(photos.parent).encode() not in (Path("run") / name).read_bytes()
    own_data = json.loads(vaecli("eval", "-m", "run", "--data-dir", "cache", "--json").out)
    last = Path("run/metrics.csv").read_text().splitlines()[-1].split(",")
    assert f"{own_data['loss']:.6f}" == last[5]
    assert own_data["protocol"].endswith("photos, test split.")
    command = ("eval", "-m", "run", "-d", "photos", "--data-dir", "cache", "--json")
    named = json.loads(vaecli(*command).out)
    assert named["loss"] == own_data["loss"]
    shutil.move("photos", "moved")
    gone = vaecli("eval", "-m", "run", "--data-dir", "cache")
    assert gone.code == ExitCode.DATA
    assert "--data" in gone.err
    assert vaecli("train", "--resume", "run", "--data-dir", "cache").code == ExitCode.DATA
    again = vaecli("train", "--resume", "run", "--data", "moved", "--data-dir", "cache")
    assert again.code == 0, again.err


def test_another_folder_is_prepared_as_the_run_was(vaecli: Vaecli, photos: Path) -> None:
    assert vaecli(*TRAIN, "--image-size", "9", "-o", "run").code == 0
    for index in range(7):
        picture(Path(f"other/{index}.jpg"), (50 + index, 40), "RGB")
    command = ("eval", "-m", "run", "-d", "other", "--data-dir", "cache", "--json")
    assert json.loads(vaecli(*command).out)["n_images"] == 7
    assert json.loads(vaecli(*command, "--split", "all").out)["n_images"] == 7
    assert json.loads(vaecli(*command, "--split", "train").out)["n_images"] < 7


def test_resume_of_a_folder_run_is_exact(
    vaecli: Vaecli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from vaecli.system.signals import stop_flag
    from vaecli.training import step as stepping

    assert vaecli(*TRAIN, "-o", "straight").code == 0
    stop_after = stepping.Stepper.take
    steps = []

    def step(self: object, *arguments: object) -> None:
        steps.append(1)
        if len(steps) == 3:
            stop_flag.received = signal.SIGINT
        stop_after(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stepping.Stepper, "take", step)
        patch.setattr(stop_flag, "received", None)
        assert vaecli(*TRAIN, "-o", "broken").code == ExitCode.INTERRUPTED
    assert vaecli("train", "--resume", "broken", "--data-dir", "cache", "-q").code == 0
    weights = [Path(run, "model.safetensors").read_bytes() for run in ("straight", "broken")]
    assert weights[0] == weights[1]


def test_a_resume_reads_where_the_images_are_once_and_checks_them_once(
    vaecli: Vaecli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaecli.system import files
    from vaecli.training.provenance import Provenance

    assert vaecli(*TRAIN, "-o", "run", "--schedule", "constant").code == 0
    done: list[str] = []
    read, check = files.read_capped, Provenance.require_unchanged

    def reading(path: Path, most: int) -> bytes:
        done.append(path.name)
        return read(path, most)

    def checking(self: Provenance, dataset: Dataset) -> None:
        done.append("check")
        check(self, dataset)

    monkeypatch.setattr(files, "read_capped", reading)
    monkeypatch.setattr(Provenance, "require_unchanged", checking)
    again = vaecli("train", "--resume", "run", "--data-dir", "cache", "--epochs", "3")
    assert again.code == 0, again.err
    assert (done.count("source.json"), done.count("check")) == (1, 1)


def test_changed_images_are_told_apart_at_resume(vaecli: Vaecli, photos: Path) -> None:
    assert vaecli(*TRAIN, "-o", "run").code == 0
    os.utime(photos / "a/00.png", ns=(1, 1))  # touched, but the same
    assert vaecli("train", "--resume", "run", "--data-dir", "cache").code == 0
    picture(photos / "a/new.png")
    (photos / "b/01.png").unlink()
    picture(photos / "a/00.png")
    for command in (("train", "--resume", "run", "--data-dir", "cache"), (*TRAIN, "-o", "run")):
        outcome = vaecli(*command)
        assert outcome.code == ExitCode.MODEL
        assert "1 file was added (a/new.png)" in outcome.err
        assert "1 file was removed (b/01.png)" in outcome.err
        assert "a/00.png" in outcome.err
    other = vaecli(*TRAIN, "-o", "run", "--image-size", "9")
    assert other.code == ExitCode.USAGE


def test_source_json_that_is_damaged(vaecli: Vaecli, photos: Path) -> None:
    assert vaecli(*TRAIN, "-o", "run").code == 0
    for content in ("{", "{}", '{"kind": "folder", "location": 3, "options": {}, "files": []}'):
        Path("run/state/source.json").write_text(content)
        assert vaecli("train", "--resume", "run", "--data-dir", "cache").code == ExitCode.MODEL
    Path("run/state/source.json").unlink()
    outcome = vaecli("train", "--resume", "run", "--data-dir", "cache")
    assert outcome.code == ExitCode.DATA
    assert "--data" in outcome.err


def test_origin_survives_json() -> None:
    origin = Origin("folder", "/p", Options(image_size=9), (("bad\udcff.png", 3, 4),))
    assert Origin.from_json(json.loads(json.dumps(origin.to_json()))) == origin


# ------------------------------------------------------------------ larger than memory

MAPPED = """
import json, os, sys
from pathlib import Path
from typing import Any
import numpy as np
from vaecli.cli import app as cli
from vaecli.pictures import plots
from vaecli.training import loop as training
from vaecli.data import reading
from vaecli.export import html
from vaecli.system import threads

SIDE = 128
reading.memory_for_images = lambda: 1 << 20
threads.cores = lambda: 8  # each thread holds a batch, whatever the machine of the test has

def peak(*command):
    # a process of its own: what the allocator keeps of one command is not counted in the next
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        os._exit(cli.run([*map(str, command), "--data-dir", "cache", "-q", "-f"]))
    _, status, usage = os.wait4(child, 0)
    assert status == 0, command
    return usage.ru_maxrss / 1024

def peaks(count):
    with open(f"{count}.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, SIDE, SIDE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, 100):
            file.write(np.random.default_rng(start).bytes(100 * SIDE * SIDE))
    small = ("--hidden", 8, "--latent-dim", 2, "--epochs", 1, "--test-fraction", 0.2)
    train = ("train", "--arch", "mlp", "--data", f"{count}.npy", *small, "-o")
    whole = ("eval", "--split", "all", "--per-image", "scores.csv", "--latents", "-m")
    found = {
        "train": peak(*train, "grey", "--patience", 2),
        "train dynamic": peak(*train, "dynamic", "--binarize", "dynamic"),
        "train static": peak(*train, "static", "--binarize", "static"),
        "eval": peak(*whole, "grey", "--plot", "plot.png"),
        "eval dynamic": peak(*whole, "dynamic", "--importance-samples", 1),
        "eval static": peak(*whole, "static"),
        "export": peak("export", "-m", "grey", "--format", "html", "-o", "page.html"),
    }
    sample = ("sample", "--prior", "gmm", "-o", "samples.png", "-m")
    found["sample"] = peak(*sample, "dynamic")
    return found

few, many = peaks(1_400), peaks(2_900)
print(json.dumps({what: [few[what], many[what]] for what in few}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.skipif(
    not hasattr(mmap, "MADV_DONTNEED"), reason="Windows itself decides when pages are given back"
)
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_set_larger_than_memory_needs_bounded_memory(tmp_path: Path) -> None:
    """Of 45 MiB of images hardly more is in memory than of 22 MiB, when 1 MiB is allowed.

    By the peak of the resident memory of the process, of whatever kind, of every command that
    looks at a whole set.  The allocator is told to give back what is freed.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
    outcome = subprocess.run(
        [sys.executable, "-c", MAPPED],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    peaks = json.loads(outcome.stdout)
    assert len(peaks) == 8
    assert all(many - few < 12 for few, many in peaks.values()), f"for 23 MiB of images: {peaks}"


def test_a_mapped_set_is_the_same_set(load: Load, photos: Path) -> None:
    in_memory, mapped = load(photos), load(photos, memory=1000)
    assert isinstance(in_memory.train.pixels, np.ndarray)
    assert isinstance(mapped.train.pixels, Mapped)
    assert mapped.fingerprint() == in_memory.fingerprint()
    assert np.array_equal(mapped.train.mean_image(), in_memory.train.mean_image())
    np.testing.assert_array_equal(mapped.train.pixels[:], in_memory.train.pixels, strict=True)
    assert mapped.origin is not None
    assert in_memory.origin is not None
    assert (in_memory.origin.window, mapped.origin.window) == (0, 1)


def test_what_is_mapped_is_read_as_an_array_is(load: Load, photos: Path) -> None:
    """Slices, places, parts and both splits together; grey, and binarized where it is read."""
    in_memory, mapped = load(photos, test_fraction=0.4), load(photos, test_fraction=0.4, memory=999)
    for expected, found in (
        (in_memory, mapped),
        (static_binarized(in_memory), static_binarized(mapped)),
    ):
        whole = join([expected.train, expected.test])
        lazy = join([found.train, found.test])
        assert isinstance(lazy.pixels, Mapped)
        assert lazy.paths == whole.paths
        assert tuple(lazy.pixels.shape) == tuple(whole.pixels.shape)
        np.testing.assert_array_equal(lazy.pixels[:], whole.pixels[:], strict=True)
        np.testing.assert_array_equal(lazy.pixels[-3:], whole.pixels[-3:], strict=True)
        assert lazy.pixels[5:5].shape == whole.pixels[5:5].shape
        places = RNG.permutation(30)[:20]
        np.testing.assert_array_equal(
            lazy.take(places).pixels, whole.take(places).pixels, strict=True
        )
        np.testing.assert_array_equal(lazy[2:28][1:20].pixels[:], whole[2:28][1:20].pixels[:])
        kept, held_out = found.train.split(7)
        np.testing.assert_array_equal(held_out.pixels[:], expected.train.split(7)[1].pixels[:])
        assert np.array_equal(kept.mean_image(), expected.train.split(7)[0].mean_image())


@pytest.mark.parametrize("binarize", ["none", "dynamic", "static"])
def test_a_mapped_set_is_judged_as_in_memory(load: Load, photos: Path, binarize: str) -> None:
    model = build(ModelConfig(image_shape=(1, 12, 12), hidden=(8,), latent_dim=2), seed=0)
    results = []
    for memory in (10**9, 999):
        dataset = load(photos, memory=memory)
        dataset = static_binarized(dataset) if binarize == "static" else dataset
        images = join([dataset.train, dataset.test])
        redraw = binarize == "dynamic"
        results.append(
            evaluate(model, images, seed=3, redraw=redraw, batch_size=8, importance_samples=2)
        )
    assert torch.equal(results[0].losses, results[1].losses)
    assert results[0].nll == results[1].nll


def test_a_mapped_set_resumes_exactly_whatever_the_memory(photos: Path, tmp_path: Path) -> None:
    from vaecli.training import loop, planning
    from vaecli.training.plan import Request
    from vaecli.training.settings import Settings

    def run(name: str, memory: int, stop: bool = False) -> bytes:
        settings = Settings(hidden=(8,), epochs=2, batch_size=4)
        request = Request(settings, str(photos), output=tmp_path / name)
        plan = planning.plan(request, Reading(tmp_path / "cache", memory=memory))
        steps = iter(range(1000))
        with plan.opened() as target:
            list(loop.train(target, plan.dataset, should_stop=lambda: stop and next(steps) == 8))
        return (tmp_path / name / "model.safetensors").read_bytes()

    straight = run("straight", memory=2000)
    partial = run("broken", memory=2000, stop=True)
    assert partial != straight
    assert run("broken", memory=10**9) == straight


def test_mean_image_is_exact() -> None:
    pixels = RNG.integers(0, 256, (1000, 3, 5, 7), dtype=np.uint8)
    expected = pixels.astype(np.float64).mean(0) / 255
    np.testing.assert_allclose(Images(pixels).mean_image(), expected, rtol=1e-12, atol=0)
