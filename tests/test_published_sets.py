"""EMNIST, Omniglot, USPS, SVHN: small files in their original formats, damaged ones, downloads."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import re
import string
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import REPOSITORY, Vaecli
from test_named import encode
from vaecli.data.dataset import Dataset, Images
from vaecli.data.named import downloads, emnist, idx, omniglot, sets, svhn, usps
from vaecli.data.named.class_names import class_names
from vaecli.data.named.licences import LICENCES
from vaecli.data.named.mirrors import DOWNLOADS, Downloads
from vaecli.data.reading import Reading
from vaecli.errors import DataError, EnvironmentFailure
from vaecli.system import extras

scipy_io = pytest.importorskip("scipy.io", reason="needs scipy: vaecli[mat]")

RNG = np.random.default_rng(0)
Bytes = NDArray[np.uint8]
Pictures = dict[str, tuple[Bytes, NDArray[Any]]]
"""Pixels and labels of the training and of the test split."""


def drawn(side: int, channels: int, lowest: int, highest: int) -> Pictures:
    return {
        split: (
            RNG.integers(0, 256, (count, channels, side, side), np.uint8),
            RNG.integers(lowest, highest + 1, count).astype(np.uint8),
        )
        for split, count in (("train", 12), ("test", 5))
    }


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


LETTERS, BALANCED = drawn(28, 1, 1, 26), drawn(28, 1, 0, 46)
EMNIST_FILES = {
    f"gzip/{name}-{split}-{kind}-ubyte.gz": gzip.compress(encode(array), mtime=0)
    for name, pictures in (("emnist-letters", LETTERS), ("emnist-balanced", BALANCED))
    for split, (pixels, labels) in pictures.items()
    # a picture lies on its side in the file
    for kind, array in (
        ("images-idx3", np.ascontiguousarray(pixels[:, 0].transpose(0, 2, 1))),
        ("labels-idx1", labels),
    )
}
EMNIST = {"gzip.zip": zipped({"gzip/": b"", **EMNIST_FILES})}


def usps_text(pixels: Bytes, labels: Bytes) -> bytes:
    """As LIBSVM writes it, every pixel named; the values of the set have up to six digits."""
    lines = []
    for image, label in zip(pixels, labels, strict=True):
        values = image.ravel() / 127.5 - 1
        pairs = (f"{place}:{value:.6g}" for place, value in enumerate(values, 1))
        lines.append(f"{label + 1} {' '.join(pairs)} ")
    return bz2.compress(("\n".join(lines) + "\n").encode())


ENVELOPES = drawn(16, 1, 0, 9)
USPS = {
    file: usps_text(*ENVELOPES[split])
    for file, split in zip(usps.FILES, ("train", "test"), strict=True)
}


def mat(pixels: Bytes, labels: Bytes, **more: Any) -> bytes:
    """As the authors' MATLAB wrote it: (32, 32, 3, N), and labels from 1 to 10."""
    file = io.BytesIO()
    tens = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    content = {"X": pixels.transpose(2, 3, 1, 0), "y": tens} | more
    scipy_io.savemat(file, content, do_compression=True)
    return file.getvalue()


HOUSES = drawn(32, 3, 0, 9)
SVHN = {
    file: mat(*HOUSES[split]) for file, split in zip(svhn.FILES, ("train", "test"), strict=True)
}


def png(ink: Bytes, side: int = 105) -> bytes:
    """A drawing of 0 and 1, black on white, one bit a pixel."""
    file = io.BytesIO()
    Image.fromarray(255 * (1 - ink)).resize((side, side)).convert("1").save(file, "PNG")
    return file.getvalue()


INK = {
    f"{split}/{alphabet}/character{number:02}/{person:04}_{person:02}.png": (
        RNG.integers(0, 2, (105, 105), np.uint8)
    )
    for split, alphabets in (
        ("images_background", ("Balinese", "Greek")),
        ("images_evaluation", ("Atlantean",)),
    )
    for alphabet in alphabets
    for number in (1, 2)
    for person in (1, 2, 3)
}
OMNIGLOT = {
    f"{split}.zip": zipped(
        {
            f"{split}/": b"",
            **{name: png(ink) for name, ink in INK.items() if name.startswith(split)},
        }
    )
    for split in ("images_background", "images_evaluation")
}


def characters() -> Pictures:
    """What becomes of the drawings: 28 of the 105 rows and columns, each the mean of 3.75."""
    share = np.zeros((28, 105))
    for row in range(28):
        for place in range(105):
            overlap = min(3.75 * (row + 1), place + 1) - max(3.75 * row, place)
            share[row, place] = max(0, overlap) / 3.75
    names = sorted({"/".join(name.split("/")[1:3]) for name in INK})
    found: Pictures = {}
    for split, folder in (("train", "images_background"), ("test", "images_evaluation")):
        chosen = sorted(name for name in INK if name.startswith(folder))
        means = [255 * share @ INK[name] @ share.T for name in chosen]
        labels = [names.index("/".join(name.split("/")[1:3])) for name in chosen]
        found[split] = (np.array(means)[:, None], np.array(labels))
    return found


CASES: dict[str, tuple[dict[str, bytes], str, Pictures]] = {
    "emnist-letters": (EMNIST, "EMNIST/raw", LETTERS),
    "emnist-balanced": (EMNIST, "EMNIST/raw", BALANCED),
    "omniglot": (OMNIGLOT, "omniglot-py", characters()),
    "usps": (USPS, "", ENVELOPES),
    "svhn": (SVHN, "", HOUSES),
}
"""The files of each set, where torchvision keeps them, and what they hold."""


def fill(folder: Path, contents: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in contents.items():
        (folder / file).write_bytes(data)
    return folder


def require_right(found: Dataset | None, name: str) -> None:
    assert found is not None
    assert found.name == name
    for split, images in (("train", found.train), ("test", found.test)):
        pixels, labels = CASES[name][2][split]
        assert isinstance(images.pixels, np.ndarray)
        assert images.pixels.dtype == np.uint8
        assert np.abs(images.pixels.astype(float) - pixels).max() <= 0.5 + 1e-9
        assert images.labels is not None
        assert images.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("name", CASES)
def test_original_files_are_found_where_torchvision_keeps_them(tmp_path: Path, name: str) -> None:
    contents, folder, _ = CASES[name]
    fill(tmp_path / "layout" / folder, contents)
    fill(tmp_path / "flat", contents)
    for place in (tmp_path / "layout", tmp_path / "flat"):
        require_right(sets.find(name, place, report=pytest.fail), name)
    assert sets.find(name, tmp_path / "none", report=pytest.fail) is None


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_the_idx_files_of_emnist_are_found_too(tmp_path: Path, suffix: str) -> None:
    """Unpacked by torchvision or by hand, gzipped or not."""
    contents = {
        Path(name).name.removesuffix(".gz") + suffix: data if suffix else gzip.decompress(data)
        for name, data in EMNIST_FILES.items()
        if "letters" in name
    }
    raw = fill(tmp_path / "EMNIST/raw", contents)
    require_right(sets.find("emnist-letters", tmp_path, report=pytest.fail), "emnist-letters")
    assert sets.find("emnist-balanced", tmp_path, report=pytest.fail) is None
    (raw / f"emnist-letters-test-labels-idx1-ubyte{suffix}").unlink()
    said: list[str] = []
    assert sets.find("emnist-letters", tmp_path, report=said.append) is None
    assert any("test-labels" in text and "missing" in text for text in said)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A folder that is served; its `address` file says where."""
    served = tmp_path / "served"
    served.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(served))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        (tmp_path / "address").write_text(f"http://127.0.0.1:{running.server_port}/")
        yield served
        running.shutdown()


@pytest.mark.parametrize("name", CASES)
def test_downloaded_once_then_read_from_the_cache(
    name: str, tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, folder, _ = CASES[name]
    fill(server, contents)
    address = (tmp_path / "address").read_text()
    md5 = {file: hashlib.md5(data).hexdigest() for file, data in contents.items()}
    data_dir = tmp_path / "data"
    source = Downloads([address], md5, 5.0)
    require_right(downloads.load(name, Reading(data_dir, report=pytest.fail), source), name)
    for file, data in contents.items():
        assert (data_dir / folder / file).read_bytes() == data
    for file in contents:
        (data_dir / folder / file).unlink()
    monkeypatch.setattr(extras, "require", pytest.fail)  # the cache needs no package
    found = downloads.load(name, Reading(data_dir, download=False, report=pytest.fail))
    require_right(found, name)
    assert found.train.classes == class_names(name)


def test_a_download_of_another_md5_is_refused(tmp_path: Path, server: Path) -> None:
    fill(server, USPS)
    source = Downloads([(tmp_path / "address").read_text()], dict.fromkeys(USPS, "0" * 32), 5.0)
    with pytest.raises(EnvironmentFailure, match="MD5 is wrong"):
        downloads.load("usps", Reading(tmp_path / "data"), source)


def test_addresses_and_md5_are_those_torchvision_gives() -> None:
    datasets = pytest.importorskip("torchvision.datasets")

    def pinned(name: str) -> dict[str, str]:
        mirror = DOWNLOADS[name].mirrors[0]
        return {f"{mirror}{file}": md5 for file, md5 in DOWNLOADS[name].md5.items()}

    for name in emnist.NAMES:
        assert pinned(name) == {datasets.EMNIST.url: datasets.EMNIST.md5}
        split = name.removeprefix("emnist-")
        theirs = datasets.EMNIST.classes_split_dict[split]
        ours = class_names(name)
        assert [ours.get(label, "N/A") for label in range(len(theirs))] == theirs
    prefix, zips_md5 = datasets.Omniglot.download_url_prefix, datasets.Omniglot.zips_md5
    assert pinned("omniglot") == {f"{prefix}/{key}.zip": md5 for key, md5 in zips_md5.items()}
    for name, known in (("usps", datasets.USPS), ("svhn", datasets.SVHN)):
        splits = [known.split_list[split] for split in ("train", "test")]
        assert pinned(name) == {url: md5 for url, _, md5 in splits}
    assert set(class_names("emnist-letters").values()) == set(string.ascii_lowercase)


def test_torchvision_reads_the_same_digits(tmp_path: Path) -> None:
    """The one reader of it that checks no MD5; it cuts off what vaecli rounds."""
    datasets = pytest.importorskip("torchvision.datasets")
    fill(tmp_path, USPS)
    theirs = datasets.USPS(tmp_path)
    ours = usps.parse(USPS["usps.bz2"], "here")
    assert isinstance(ours.pixels, np.ndarray)
    assert np.abs(ours.pixels[:, 0].astype(int) - theirs.data).max() <= 1
    assert ours.labels is not None
    assert ours.labels.tolist() == theirs.targets


def broken_usps(text: str) -> bytes:
    return bz2.compress(text.encode())


def archived(name: str, data: bytes) -> bytes:
    return zipped({f"images_background/Greek/character01/{name}.png": data})


DAMAGED: list[tuple[Callable[[bytes, str], Any], bytes, str]] = [
    (usps.parse, b"no bz2", "USPS: here"),
    (usps.parse, USPS["usps.bz2"][:-40], "USPS: here"),
    (usps.parse, broken_usps(""), "it is empty"),
    (usps.parse, broken_usps("11 1:0\n"), "a label is 11"),
    (usps.parse, broken_usps("1 257:0\n"), "no pixel 257"),
    (usps.parse, broken_usps("1 0:0\n"), "no pixel 0"),
    (usps.parse, broken_usps("1 1:1.5\n"), "not in"),
    (usps.parse, broken_usps("1 1:nan\n"), "not in"),
    (usps.parse, broken_usps("1 1\n"), "USPS: here"),
    (svhn.parse, b"no mat", "SVHN: here"),
    (svhn.parse, SVHN["test_32x32.mat"][:-200], "SVHN: here"),
    (svhn.parse, mat(*drawn(28, 3, 0, 9)["test"]), "declares X"),
    (svhn.parse, mat(*HOUSES["test"], y=np.ones((4, 1), np.uint8)), "declares X"),
    (svhn.parse, mat(*HOUSES["test"], y=np.full((5, 1), 11, np.uint8)), "other labels"),
    (svhn.parse, mat(*HOUSES["test"], X=np.zeros((32, 32, 3, 5))), "no bytes"),
    (omniglot.parse_archive, b"no zip", "zip file: here"),
    (omniglot.parse_archive, OMNIGLOT["images_evaluation.zip"][:-30], "zip file: here"),
    (omniglot.parse_archive, zipped({"a.txt": b""}), "no pictures of characters"),
    (omniglot.parse_archive, archived("a", b"no png"), "a.png"),
    (omniglot.parse_archive, archived("a", png(INK[next(iter(INK))], 64)), "64x64, not 105x105"),
    (omniglot.parse_archive, archived("a", bytes(1 << 20)), "unpacks to more than 65,536"),
    (partial(emnist.parse_archive, "emnist-letters"), b"no zip", "zip file: here"),
    (partial(emnist.parse_archive, "emnist-letters"), zipped({}), "train-images.* not found"),
]


@pytest.mark.parametrize(("parse", "data", "why"), DAMAGED, ids=range(len(DAMAGED)))
def test_damaged_files_are_refused(
    parse: Callable[[bytes, str], Any], data: bytes, why: str
) -> None:
    with pytest.raises(DataError, match=why):
        parse(data, "here")


def test_bombs_stop_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usps, "LIMIT", 1 << 16)
    with pytest.raises(DataError, match="unpacks to more than 65,536 bytes"):
        usps.parse(bz2.compress(bytes(1 << 24)), "here")
    monkeypatch.setattr(idx, "LIMIT", 1 << 10)
    with pytest.raises(DataError, match="unpacks to more than 1,024 bytes"):
        emnist.parse_archive("emnist-letters", EMNIST["gzip.zip"], "here")
    monkeypatch.setattr(svhn, "MAX_IMAGES", 4)
    with pytest.raises(DataError, match="5 pictures, more than 4"):
        svhn.parse(SVHN["test_32x32.mat"], "here")


@pytest.mark.parametrize("name", CASES)
def test_trained_on_and_named_in_the_card(name: str, tmp_path: Path, vaecli: Vaecli) -> None:
    """The licence stands in the card, and the latent space is drawn from classes by name."""
    contents, folder, _ = CASES[name]
    fill(tmp_path / "sets" / folder, contents)
    line = ("train", "-d", name, "--data-dir", "sets", "--no-download", "-e", "1", "-o", "run")
    outcome = vaecli(*line, "--arch", "mlp", "--hidden", "8", "--latent-dim", "2")
    assert outcome.code == 0, outcome.err
    card = (tmp_path / "run/README.md").read_text()
    assert f"Licence of the images: {LICENCES[name]}." in card
    assert set(LICENCES) == {"digits", *sets.NAMES}
    assert vaecli("eval", "-m", "run", "--data-dir", "sets", "--no-download").code == 0


def test_a_folder_of_that_name_says_nothing_of_a_licence(tmp_path: Path, vaecli: Vaecli) -> None:
    np.save("usps.npy", RNG.integers(0, 256, (40, 8, 8), np.uint8))
    assert vaecli("train", "-d", "usps.npy", "-e", "1", "--hidden", "8", "-o", "run").code == 0
    assert "Licence" not in (tmp_path / "run/README.md").read_text()


def test_without_scipy_the_install_line_is_told_before_a_download(
    vaecli: Vaecli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = extras.importlib.util.find_spec  # type: ignore[attr-defined]
    monkeypatch.setattr(
        extras.importlib.util,  # type: ignore[attr-defined]
        "find_spec",
        lambda name, *more: None if name == "scipy" else real(name, *more),
    )
    monkeypatch.setattr(downloads.http_download, "receive", pytest.fail)  # type: ignore[attr-defined]
    for files in ({}, SVHN):
        fill(tmp_path / "sets", files)
        outcome = vaecli("train", "-d", "svhn", "--data-dir", "sets", "--dry-run")
        assert outcome.code == 5
        assert "vaecli[mat]" in outcome.err


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("emnist-letters", "EMNIST/gzip.zip into sets/EMNIST/raw"),
        ("omniglot", "images_evaluation.zip into sets/omniglot-py"),
        ("usps", "usps.t.bz2 into sets"),
        ("svhn", "test_32x32.mat into sets"),
    ],
)
def test_absent_and_offline_says_where_to_put_what(name: str, place: str, vaecli: Vaecli) -> None:
    outcome = vaecli("train", "-d", name, "--no-download", "--data-dir", "sets")
    assert outcome.code == 5
    assert place in outcome.err


def test_pictures_are_upright(tmp_path: Path) -> None:
    """A stroke down the picture is a column, though a row in the file."""
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10] = 255
    labels = np.ones(1, np.uint8)
    arrays = dict(zip(idx.FILES, (image, labels, image, labels), strict=True))
    found = emnist.assemble("emnist-letters", arrays, "here")
    assert isinstance(found.train, Images)
    assert isinstance(found.train.pixels, np.ndarray)
    assert (found.train.pixels[0, 0, :, 10] == 255).all()
    assert found.train.pixels.sum() == 28 * 255


def test_the_page_lists_every_set() -> None:
    page = (REPOSITORY / "docs/data-sets.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", page, re.MULTILINE)
    assert {name for name, _ in rows} == {"digits", *sets.NAMES}
    for name, cells in rows:
        assert cells.rsplit(" | ", 1)[1] == LICENCES[name]
        if name not in sets.TORCHVISION_CLASSES and name not in ("digits", "emnist-balanced"):
            for file in DOWNLOADS[name].md5:
                assert f"`{file}`" in cells
