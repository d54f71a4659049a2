"""`eval --embeddings`, `--neighbours`, `--clusters`, `--projection`: values, files, refusals."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from command import process
from conftest import Vaecli
from vaecli.data.named import idx
from vaecli.errors import ExitCode
from vaecli.evaluation import neighbours

Rows = list[dict[str, str]]


@pytest.fixture(autouse=True)
def _in_cache(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAECLI_DATA_DIR", str(data_dir))
    monkeypatch.setenv("VAECLI_NO_DOWNLOAD", "1")


def rows(path: str | Path) -> Rows:
    return list(csv.DictReader(Path(path).read_text().splitlines()))


def points(count: int, dimension: int) -> NDArray[np.float32]:
    """Far from the origin, where squared distances have few digits left."""
    drawn = np.random.default_rng(0).normal(100, 1, (count, dimension))
    return drawn.astype(np.float32)


# --- the formulas --------------------------------------------------------------------------------


def test_the_nearest_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    values = points(1100, 7)  # more than one block
    found = neighbours.nearest(values, 5)
    search = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(values.astype(np.float64) - 100)
    distances, places = search.kneighbors(values.astype(np.float64) - 100)
    np.testing.assert_array_equal(found.places, places[:, 1:])
    np.testing.assert_allclose(found.distances, distances[:, 1:], rtol=1e-5)


def test_an_image_is_no_neighbour_of_itself_but_its_copy_is() -> None:
    values = np.repeat(points(4, 3), 2, 0)
    found = neighbours.nearest(values, 1)
    assert found.places[:, 0].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert (found.distances == 0).all()


def test_groups_are_as_tight_as_those_of_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (900, 4)).astype(np.float32) + 3 * rng.integers(0, 3, (900, 4))
    values = values.astype(np.float32)
    found = neighbours.groups(values, 6, seed=0)
    best = KMeans(6, n_init=20, random_state=0).fit(values).inertia_
    assert float(np.square(found.distances).sum()) <= 1.05 * best
    assert found.sizes == sorted(np.bincount(found.group), reverse=True)
    for group in range(6):
        members = values[found.group == group]
        to_mean = np.linalg.norm(members - members.mean(0), axis=1)
        np.testing.assert_allclose(found.distances[found.group == group], to_mean, atol=1e-3)
        first = found.nearest(group, 3)
        assert np.sort(to_mean)[:3] == pytest.approx(found.distances[first], abs=1e-3)


def test_copies_make_fewer_groups_than_asked_for() -> None:
    found = neighbours.groups(np.repeat(points(2, 3), 5, 0), 4, seed=0)
    assert found.sizes == [5, 5]
    assert len(set(found.group[:5])) == 1


# --- the files -----------------------------------------------------------------------------------


@pytest.fixture
def folder(data_dir: Path) -> Path:
    """Twenty digits, and a copy of the first."""
    digits = idx.read_idx(data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz")
    path = Path("photos")
    path.mkdir()
    for index, digit in enumerate(digits[:20]):
        Image.fromarray(digit.squeeze()).save(path / f"{index:02}.png")
    shutil.copy(path / "00.png", path / "copy.png")
    return path


def test_embeddings_are_the_latents_of_the_scores(vaecli: Vaecli, trained: Path) -> None:
    asked = ("eval", "-m", trained, "--embeddings", "e.npy", "--per-image", "s.csv", "--latents")
    assert vaecli(*asked).code == 0
    found = np.load("e.npy")
    assert (found.shape, found.dtype) == ((130, 8), np.float32)
    listed = [[float(row[f"z{place}"]) for place in range(8)] for row in rows("s.csv")]
    np.testing.assert_array_equal(found, np.array(listed, np.float32))
    again = vaecli("sample", "-m", trained, "--latents", "e.npy", "-o", "decoded.npy")
    assert again.code == 0  # what eval writes, sample decodes
    assert np.load("decoded.npy").shape == (130, 1, 28, 28)


def test_parquet_holds_embeddings_with_paths_and_scores_with_verdicts(
    vaecli: Vaecli, trained: Path, folder: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: vaecli[hub]")
    asked = ("eval", "-m", trained, "-d", folder, "--alert-rate", "0.1")
    outputs = ("--embeddings", "e.parquet", "--per-image", "s.parquet", "--latents")
    assert vaecli(*asked, *outputs).code == 0
    assert vaecli(*asked, "--embeddings", "e.npy", "--per-image", "s.csv", "--latents").code == 0
    table = parquet.read_table("e.parquet")
    assert table.column_names == ["index", "path", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[8]"
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), "f4"), np.load("e.npy"))
    assert table["path"].to_pylist() == [row["path"] for row in rows("s.csv")]
    scores = parquet.read_table("s.parquet")
    assert scores.column_names == list(rows("s.csv")[0])
    for name in ("loss", "p_value", "verdict", "z7"):
        assert [str(value) for value in scores[name].to_pylist()] == [
            row[name] for row in rows("s.csv")
        ]


def test_neighbours_name_the_copy_first(vaecli: Vaecli, trained: Path, folder: Path) -> None:
    outcome = vaecli("eval", "-m", trained, "-d", folder, "--neighbours", "3")
    assert outcome.code == 0, outcome.err
    assert "neighbours.csv, neighbours.png" in outcome.err
    found = rows("neighbours.csv")
    assert len(found) == 21 * 3
    assert list(found[0]) == [
        *("index", "path", "rank", "neighbour", "neighbour_path", "distance"),
    ]
    first = {row["path"]: row for row in found if row["rank"] == "1"}
    assert (first["00.png"]["neighbour_path"], first["00.png"]["distance"]) == ("copy.png", "0")
    assert first["copy.png"]["neighbour_path"] == "00.png"
    sheet = np.asarray(Image.open("neighbours.png"))[..., 0]  # the first row is of the first image
    for column, row in enumerate([{"neighbour_path": found[0]["path"]}, *found[:3]]):
        tile = sheet[30:86, 134 + 58 * column : 190 + 58 * column]
        picture = np.asarray(Image.open(folder / row["neighbour_path"]))
        np.testing.assert_array_equal(tile, picture.repeat(2, 0).repeat(2, 1))


def test_clusters_hold_every_image_once(vaecli: Vaecli, trained: Path, folder: Path) -> None:
    assert vaecli("eval", "-m", trained, "-d", folder, "--clusters", "4").code == 0
    found = rows("clusters.csv")
    assert sorted(row["path"] for row in found) == sorted(path.name for path in folder.iterdir())
    sizes = np.bincount([int(row["cluster"]) for row in found])[1:]
    assert len(sizes) == 4
    assert sizes.tolist() == sorted(sizes, reverse=True)
    of = {row["path"]: row["cluster"] for row in found}
    assert of["00.png"] == of["copy.png"]
    with Image.open("clusters.png") as sheet:
        assert sheet.size == (132 + 2 + 12 * 58 + 8, 28 + 2 + 4 * 58 + 8)


def test_earlier_files_are_left_alone(vaecli: Vaecli, trained: Path, folder: Path) -> None:
    Path("clusters.csv").write_text("mine")
    asked = ("eval", "-m", trained, "-d", folder, "--clusters", "2")
    assert "clusters-2.csv, clusters.png" in vaecli(*asked).err
    assert Path("clusters.csv").read_text() == "mine"
    assert vaecli(*asked, "--force").code == 0
    assert Path("clusters.csv").read_text() == Path("clusters-2.csv").read_text()
    Path("e.npy").write_text("mine")
    assert vaecli("eval", "-m", trained, "--embeddings", "e.npy").code == ExitCode.USAGE
    assert Path("e.npy").read_text() == "mine"


UMAP = """
import sys
import numpy as np
from vaecli.evaluation.latent_space import umap_plane
values = np.load(sys.argv[1])
np.save(sys.argv[2], np.stack([umap_plane(values, seed=0).points for _ in range(2)]))
"""


def test_umap_keeps_groups_together(trained: Path) -> None:
    """In processes of their own: numba keeps its own compiled functions as pickles in memory."""
    if importlib.util.find_spec("umap") is None:
        pytest.skip("needs umap-learn: vaecli[umap]")
    values = points(90, 6)
    values[30:60] += 20
    values[60:] -= 20
    np.save("values.npy", values)
    subprocess.run([sys.executable, "-c", UMAP, "values.npy", "seen.npy"], check=True)
    seen, again = np.load("seen.npy")
    centres = np.stack([seen[start : start + 30].mean(0) for start in (0, 30, 60)])
    nearest = np.linalg.norm(seen[:, None] - centres, axis=2).argmin(1)
    assert nearest.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    np.testing.assert_array_equal(seen, again)
    asked = ("eval", "-m", trained, "--plot", "u.png", "--projection", "umap")
    assert process(*asked).returncode == 0
    assert Path("u.png").read_bytes().startswith(b"\x89PNG")
    few = process(*asked, "--limit", "15", "-f")
    assert few.returncode == ExitCode.DATA
    assert "--projection pca" in few.stderr


def test_packages_that_are_missing_are_exit_5_before_any_work(
    vaecli: Vaecli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without(name: str, *more: str) -> object:
        return None if name in ("umap", "pyarrow") else real(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    for options, extra in (
        (("--plot", "u.png", "--projection", "umap"), "umap"),
        (("--embeddings", "e.parquet"), "hub"),
        (("--per-image", "s.parquet"), "hub"),
    ):
        outcome = vaecli("eval", "-m", trained, *options)
        assert outcome.code == ExitCode.ENVIRONMENT
        assert f"vaecli[{extra}]" in outcome.err
        assert "loss" not in outcome.out


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--embeddings", "e.csv"), 2, ".npy or .parquet"),
        (("--neighbours", "0"), 2, "--neighbours"),
        (("--clusters", "1"), 2, "--clusters"),
        (("--projection", "umap"), 2, "--plot"),
        (("--clusters", "4", "-m", "latest"), 2, "one model"),
        (("--neighbours", "130"), 3, "131 images, not 130"),
        (("--clusters", "131"), 3, "131 images, not 130"),
    ],
)
def test_what_makes_no_sense_is_refused(
    vaecli: Vaecli, trained: Path, options: tuple[str, ...], code: int, word: str
) -> None:
    outcome = vaecli("eval", "-m", trained, *options)
    assert outcome.code == code
    assert word in outcome.err
    assert not list(Path().glob("*.csv"))
