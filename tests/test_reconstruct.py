from __future__ import annotations

import errno
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from conftest import Vaecli, needs_mnist, real_mnist
from test_layers import modules_after
from vaecli.data.named import idx
from vaecli.data.own.listing import find_images
from vaecli.errors import DataError, ExitCode
from vaecli.system import files


@pytest.fixture
def digit(data_dir: Path) -> NDArray[np.uint8]:
    pixels = idx.read_idx(data_dir / "MNIST/raw/t10k-images-idx3-ubyte.gz")
    array: NDArray[np.uint8] = pixels[0].squeeze()
    return array


@pytest.fixture
def png(digit: NDArray[np.uint8], tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(digit).save(path)
    return path


def pixels(path: Path | str) -> NDArray[np.float64]:
    return np.asarray(Image.open(path)).astype(np.float64)


def test_one_input_writes_beside_the_caller(vaecli: Vaecli, trained: Path, png: Path) -> None:
    outcome = vaecli("reconstruct", png, "-m", trained)
    assert (outcome.code, outcome.out) == (0, "digit.recon.png\n")
    assert pixels("digit.recon.png").shape == (28, 28)
    assert vaecli("reconstruct", png, "-m", trained).out == "digit.recon-2.png\n"
    assert (pixels("digit.recon.png") == pixels("digit.recon-2.png")).all()


def test_it_is_the_decoded_mean_of_q(vaecli: Vaecli, trained: Path, png: Path) -> None:
    import vaecli as api

    vaecli("reconstruct", png, "-m", trained, "-o", "out.png")
    image = torch.from_numpy(pixels(png)).byte()[None, None]
    expected = api.load(trained).reconstruct(image)[0, 0].numpy() * 255
    assert np.abs(pixels("out.png") - expected).max() <= 0.51


def test_named_output_is_not_overwritten(vaecli: Vaecli, trained: Path, png: Path) -> None:
    Path("out.png").write_text("mine")
    outcome = vaecli("reconstruct", png, "-m", trained, "-o", "out.png")
    assert outcome.code == ExitCode.USAGE
    assert Path("out.png").read_text() == "mine"
    assert vaecli("reconstruct", png, "-m", trained, "-o", "out.png", "--force").code == 0


def test_several_and_folders_are_mirrored(vaecli: Vaecli, trained: Path, png: Path) -> None:
    for name in ("in/a.png", "in/deep/b.png", "in/deep/notes.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(png.read_bytes())
    outcome = vaecli("reconstruct", png, "in", "-m", trained, "-o", "out")
    written = ["out/digit.recon.png", "out/a.recon.png", "out/deep/b.recon.png"]
    assert outcome.out.splitlines() == written
    assert all(Path(path).is_file() for path in written)
    again = vaecli("reconstruct", png, "in", "-m", trained, "-o", "out")
    assert again.code == ExitCode.USAGE


def test_the_files_of_a_folder_are_whole_before_its_names_are_synced_once(
    vaecli: Vaecli, trained: Path, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        Path(f"{name}.png").write_bytes(png.read_bytes())
    done = list[str]()
    replace, sync_folder = files.system.replace, files.sync_folder

    def replaced(old: Path, new: Path) -> None:
        replace(old, new)
        done.append(new.name)

    def synced(folder: Path) -> None:
        sync_folder(folder)
        done.append(folder.name)

    monkeypatch.setattr(files.system, "replace", replaced)
    monkeypatch.setattr(files, "sync_folder", synced)
    outcome = vaecli("reconstruct", "a.png", "b.png", "c.png", "-m", trained, "-o", "out")
    assert outcome.code == 0, outcome.err
    names = ["a.recon.png", "b.recon.png", "c.recon.png"]
    assert [name for name in done if name in (*names, "out")] == [*names, "out"]


def test_one_of_three_is_broken(vaecli: Vaecli, trained: Path, png: Path) -> None:
    Path("bad.png").write_bytes(b"<html>nothing here</html>")
    Path("c.png").write_bytes(png.read_bytes())
    outcome = vaecli("reconstruct", png, "bad.png", "c.png", "-m", trained, "-o", "out")
    assert outcome.code == ExitCode.DATA
    assert outcome.out.splitlines() == ["out/digit.recon.png", "out/c.recon.png"]
    assert "1 of 3 inputs failed" in outcome.err
    assert "bad.png" in outcome.err


def test_equal_stems_are_refused_before_any_work(vaecli: Vaecli, trained: Path, png: Path) -> None:
    Path("other").mkdir()
    Path("other/digit.png").write_bytes(png.read_bytes())
    outcome = vaecli("reconstruct", png, "other/digit.png", "-m", trained, "-o", "out")
    assert outcome.code == ExitCode.USAGE
    assert "digit.recon.png" in outcome.err
    assert not Path("out").exists()


def test_compare_and_grid(vaecli: Vaecli, trained: Path, png: Path) -> None:
    vaecli("reconstruct", png, "-m", trained, "-o", "plain.png")
    vaecli("reconstruct", png, "-m", trained, "-o", "both.png", "--compare")
    both = pixels("both.png")
    assert both.shape == (28, 56)
    assert (both[:, :28] == pixels(png)).all()
    assert (both[:, 28:] == pixels("plain.png")).all()
    same = vaecli("reconstruct", png, "-m", trained, "-o", "x.png", "--grid", "x.png")
    assert same.code == ExitCode.USAGE
    for inputs in ([png], []):
        outcome = vaecli("reconstruct", *inputs, "-m", trained, "--grid", "grid.jpg")
        assert outcome.code == ExitCode.USAGE
        assert ".png" in outcome.err
        assert not Path("grid.jpg").exists()
    outcome = vaecli("reconstruct", png, png, "-m", trained, "--grid", "grid.png")
    assert outcome.out == "grid.png\n"
    grid = pixels("grid.png")
    assert grid.shape[0] == pytest.approx(2 * 56, abs=10)
    assert grid.shape[1] == pytest.approx(2 * 56, abs=10)


def test_sample_draws_and_repeats(vaecli: Vaecli, trained: Path, png: Path) -> None:
    for name, seed in (("a.png", "1"), ("b.png", "1"), ("c.png", "2")):
        vaecli("reconstruct", png, "-m", trained, "--sample", "--seed", seed, "-o", name)
    vaecli("reconstruct", png, "-m", trained, "-o", "mean.png")
    assert (pixels("a.png") == pixels("b.png")).all()
    assert (pixels("a.png") != pixels("c.png")).any()
    assert (pixels("a.png") != pixels("mean.png")).any()


def test_json_has_a_line_per_input(vaecli: Vaecli, trained: Path, png: Path) -> None:
    Path("b.png").write_bytes(png.read_bytes())
    outcome = vaecli("reconstruct", png, "b.png", "-m", trained, "-o", "out", "--json")
    first, second = map(json.loads, outcome.out.splitlines())
    names = {"schema_version", "input", "output", "loss", "distortion", "rate", "prior"}
    assert set(first) == names
    assert first["loss"] == pytest.approx(first["distortion"] + first["rate"])
    assert second["output"] == "out/b.recon.png"
    assert vaecli("reconstruct", png, "-m", trained, "-o", "-", "--json").code == 2


def test_without_input_it_shows_test_images(vaecli: Vaecli, trained: Path, data_dir: Path) -> None:
    outcome = vaecli("reconstruct", "-m", trained, "--data-dir", data_dir)
    assert outcome.out == "reconstructions.png\n"
    assert pixels("reconstructions.png").shape[1] > 16 * 56


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.png"],
        ["empty"],
        ["-", "-"],
        ["a.png", "b.png", "-o", "x.png"],
        ["in/a.png", "-o", "x.jpg"],
    ],
)
def test_bad_inputs_are_refused(vaecli: Vaecli, trained: Path, arguments: list[str]) -> None:
    Path("empty").mkdir()
    outcome = vaecli("reconstruct", *arguments, "-m", trained)
    assert outcome.code in (ExitCode.USAGE, ExitCode.DATA)
    assert outcome.err.startswith("vaecli: error: ")


def test_stdin_to_stdout(trained: Path, png: Path) -> None:
    command = [sys.executable, "-m", "vaecli", "reconstruct", "-", "-q", "-m", str(trained)]
    with png.open("rb") as stdin:
        outcome = subprocess.run(command, stdin=stdin, capture_output=True, check=True)
    assert outcome.stderr == b""
    assert Image.open(io.BytesIO(outcome.stdout)).size == (28, 28)


def test_light_commands_load_neither_torchvision_nor_matplotlib(trained: Path, png: Path) -> None:
    heavy = {"torchvision", "matplotlib", "torch._dynamo", "rich"}
    for command in (
        ["reconstruct", str(png), "-q", "-o", str(png.with_name("out.png"))],
        ["sample", "-q", "-o", str(png.with_name("samples.png"))],
        ["export", "-q", "--format", "safetensors", "-o", str(png.with_name("x.safetensors"))],
    ):
        arguments = [*command, "-m", str(trained)]
        loaded = modules_after(f"from vaecli.cli.app import run; assert run({arguments}) == 0")
        assert not heavy & loaded, command


def test_a_folder_walk_is_not_trapped_by_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.PNG").touch()
    (tmp_path / ".hidden.png").touch()
    os.symlink(tmp_path, tmp_path / "a/up")
    os.symlink(tmp_path / "a/self", tmp_path / "a/self")
    os.symlink(tmp_path / "a", tmp_path / "b")
    found, left_out = find_images(tmp_path)
    assert [path.name for path in found] == ["one.PNG"]
    assert list(left_out.values()) == [1]  # the hidden one
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"\.png"):
        find_images(tmp_path / "empty")


@needs_mnist
def test_a_digit_in_any_form_reconstructs_alike(vaecli: Vaecli, trained: Path) -> None:
    """Reconstructions within 8/255 mean difference of the plain file's."""
    folder = real_mnist()
    assert folder is not None
    digits = idx.read_idx(folder / "MNIST/raw/t10k-images-idx3-ubyte.gz").reshape(-1, 28, 28)
    for number in (0, 2, 18):
        array = digits[number]
        write_variants(array)
        vaecli("reconstruct", "in", "-m", trained, "-o", f"out{number}")
        plain = pixels(f"out{number}/plain.recon.png")
        for path in sorted(Path("in").iterdir()):
            other = pixels(f"out{number}/{path.stem}.recon.png")
            assert np.abs(other - plain).mean() <= 8, f"{path.name} of image {number}"


def write_variants(array: NDArray[np.uint8]) -> None:
    Path("in").mkdir(exist_ok=True)
    image = Image.fromarray(array)
    image.save("in/plain.png")
    Image.fromarray(255 - array).save("in/inverted.png")
    alpha = Image.merge("LA", (Image.new("L", image.size, 0), image))
    alpha.convert("RGBA").save("in/transparent.png")
    Image.fromarray(array.astype(np.uint16) * 257).save("in/sixteen.png")
    image.convert("P").save("in/palette.png")
    image.convert("RGB").convert("CMYK").save("in/cmyk.jpg", quality=95)
    page = Image.new("L", (300, 400), 0)
    page.paste(image.resize((140, 140), Image.Resampling.BICUBIC), (60, 150))
    page.save("in/margins.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save("in/turned.png", exif=exif)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot sync a folder")
def test_a_folder_that_cannot_be_synced_is_named(
    vaecli: Vaecli, trained: Path, png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    Path("out").mkdir()
    monkeypatch.setattr(files.system, "fsync", full)
    outcome = vaecli("reconstruct", png, "-m", trained, "-o", "out/r.png")
    assert outcome.code == ExitCode.ENVIRONMENT
    assert "out: " in outcome.err
