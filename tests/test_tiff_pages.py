"""Pages of a TIFF are images of their own; thumbnails, previews and masks are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from conftest import Vaecli
from vaecli.data import image_file
from vaecli.data.dataset import Dataset, Images, join
from vaecli.data.origin import Options
from vaecli.data.own import prepare
from vaecli.data.reading import Reading

RNG = np.random.default_rng(0)
NEW_SUBFILE_TYPE, SUBFILE_TYPE = 254, 255


def stack(path: Path, pages: NDArray[Any], tags: dict[int, tuple[int, int]] | None = None) -> None:
    """A TIFF of these pages, some with a tag of a value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = []
    for number, page in enumerate(pages):
        frame = Image.fromarray(page)
        info = TiffImagePlugin.ImageFileDirectory_v2()
        if number in (tags or {}):
            tag, value = (tags or {})[number]
            info[tag] = value
        frame.encoderinfo = {"tiffinfo": info}
        frames.append(frame)
    frames[0].save(
        path, save_all=True, append_images=frames[1:], tiffinfo=frames[0].encoderinfo["tiffinfo"]
    )


def load(path: Path, said: list[str] | None = None, **options: Any) -> Dataset:
    dataset = prepare.load(path, Options(**options), Reading(path.parent / "cache"))
    if said is not None:
        said += dataset.account.notes
    return dataset


def by_path(part: Images) -> dict[str, NDArray[np.uint8]]:
    assert part.paths is not None
    return dict(zip(part.paths, np.asarray(part.pixels)[:, 0], strict=True))


def noise(count: int) -> NDArray[np.uint16]:
    return RNG.integers(0, 65536, (count, 9, 8)).astype(np.uint16)


def test_one_stack_is_a_set_whose_last_pages_are_held_out(tmp_path: Path) -> None:
    pages = noise(120)
    stack(tmp_path / "s/a.tif", pages)
    said: list[str] = []
    dataset = load(tmp_path / "s", said)
    assert (len(dataset.train), len(dataset.test)) == (108, 12)
    found = by_path(join([dataset.train, dataset.test]))
    for number, page in enumerate(pages):
        assert np.array_equal(found[f"a.tif[{number}]"], (page.astype(int) + 128) // 257)
    assert set(by_path(dataset.test)) == {f"a.tif[{number}]" for number in range(108, 120)}
    assert "120 images in 1 file" in said[0]
    assert "the last ones are held out" in said[0]


@pytest.mark.parametrize("fraction", [0.3, 0.001, 0.999])
def test_all_pages_of_a_file_are_on_one_side(tmp_path: Path, fraction: float) -> None:
    """Where a side would be empty, all pages of a file are moved there."""
    for number in range(12):
        stack(tmp_path / f"s/{'ab'[number % 2]}/{number}.TIFF", noise(1 + number % 5))
    dataset = load(tmp_path / "s", test_fraction=fraction)
    sides = []
    for part in (dataset.train, dataset.test):
        assert part.paths is not None
        assert part.labels is not None
        assert part.labels.tolist() == ["ab".index(path[0]) for path in part.paths]
        sides.append({path.split("[")[0] for path in part.paths})
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert len(dataset.train) + len(dataset.test) == sum(1 + number % 5 for number in range(12))
    paths = set(dataset.train.paths or ()) | set(dataset.test.paths or ())
    assert {"a/0.TIFF", "b/1.TIFF[0]", "b/1.TIFF[1]"} <= paths


NOT_PAGES = [
    ({1: (NEW_SUBFILE_TYPE, 1)}, [0, 2, 3]),  # a reduced copy
    ({0: (NEW_SUBFILE_TYPE, 1)}, [1, 2, 3]),  # a thumbnail in front
    ({3: (NEW_SUBFILE_TYPE, 4), 2: (NEW_SUBFILE_TYPE, 5)}, [0, 1]),  # masks
    ({0: (NEW_SUBFILE_TYPE, 2), 1: (NEW_SUBFILE_TYPE, 2)}, [0, 1, 2, 3]),  # pages
    ({2: (SUBFILE_TYPE, 2), 1: (SUBFILE_TYPE, 3)}, [0, 1, 3]),
    ({0: (NEW_SUBFILE_TYPE, 1), 1: (NEW_SUBFILE_TYPE, 1), 3: (NEW_SUBFILE_TYPE, 1)}, [2]),
]


@pytest.mark.parametrize(("tags", "expected"), NOT_PAGES)
def test_thumbnails_previews_and_masks_are_no_pages(
    tmp_path: Path, tags: dict[int, tuple[int, int]], expected: list[int]
) -> None:
    pages = noise(4)
    stack(tmp_path / "s/a.tif", pages, tags)
    stack(tmp_path / "s/b.tif", noise(1))
    assert image_file.tiff_pages(tmp_path / "s/a.tif") == expected
    dataset = load(tmp_path / "s")
    found = by_path(join([dataset.train, dataset.test]))
    assert len(found) == len(expected) + 1
    for number in expected:
        name = "a.tif" if len(expected) == 1 else f"a.tif[{number}]"
        assert np.array_equal(found[name], (pages[number].astype(int) + 128) // 257)
    picture = image_file.read_image(tmp_path / "s/a.tif", name="a")
    assert np.array_equal(picture.pixels[..., 0], (pages[expected[0]].astype(int) + 128) // 257)
    assert any("first frame" in note for note in picture.notes) == (len(expected) > 1)


def test_a_page_that_cannot_be_read_is_named(vaecli: Vaecli, tmp_path: Path) -> None:
    stack(tmp_path / "s/a.tif", noise(40))
    data = bytearray((tmp_path / "s/a.tif").read_bytes())
    with Image.open(tmp_path / "s/a.tif") as image:
        image.seek(30)
        entry = data.index((273).to_bytes(2, "little"), image._frame_pos[30])  # type: ignore[attr-defined]
    data[entry + 8 : entry + 12] = (2**31 - 1).to_bytes(4, "little")  # where its pixels lie
    (tmp_path / "s/a.tif").write_bytes(data)
    outcome = vaecli("train", "--data", "s", "--data-dir", "cache", "--dry-run")
    assert outcome.code == 3
    assert "1 of 40 images cannot be read: a.tif[30]: " in outcome.err


def test_animations_are_their_first_frame_and_counted(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    for number in range(6):
        frames = [Image.new("L", (8, 8), 40 * frame) for frame in range(1, 4)]
        more = frames[1:] if number < 2 else []
        frames[0].save(tmp_path / f"s/{number}.gif", save_all=True, append_images=more)
    said: list[str] = []
    dataset = load(tmp_path / "s", said)
    assert len(dataset.train) + len(dataset.test) == 6
    assert np.unique(join([dataset.train, dataset.test]).pixels[:]).tolist() == [40]
    assert "the first frame of each of 2 animations" in " ".join(said)
