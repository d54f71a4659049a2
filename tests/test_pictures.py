from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from vaecli.config import ModelConfig
from vaecli.evaluation.evaluate import Evaluation
from vaecli.evaluation.generation import sample
from vaecli.evaluation.latent_space import Dimensions
from vaecli.model.vae import TorchRunner, build
from vaecli.pictures import plots, sheets
from vaecli.pictures.animation import Animation, encode_gif
from vaecli.pictures.grid import make_grid, small
from vaecli.runs.metrics import EpochMetrics

Bytes = NDArray[np.uint8]

pytestmark = pytest.mark.usefixtures("real_figures")


def images(count: int, channels: int = 1, side: int = 28) -> Bytes:
    shape = (count, channels, side, side)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def enlarged(image: Bytes, factor: int = 2) -> Bytes:
    """An image (C, H, W) in colour, each pixel repeated."""
    tall = image.repeat(factor, 1).repeat(factor, 2)
    return np.broadcast_to(tall, (3, *tall.shape[1:]))


def contains(sheet: Bytes, part: Bytes) -> bool:
    """Whether `part` lies somewhere in `sheet`, pixel by pixel."""
    height, width = part.shape[1:]
    first = np.argwhere((sheet == part[:, :1, :1]).all(0)).tolist()
    return any(np.array_equal(sheet[:, y : y + height, x : x + width], part) for y, x in first)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_every_image_enlarged_by_a_whole_factor(channels: int) -> None:
    pixels = images(6, channels)
    sheet = sheets.traversal(pixels, Dimensions((1.0, 2.0), (True, True)), 3)
    for image in pixels:
        assert contains(sheet, enlarged(image))
    walk = sheets.interpolation(pixels[:4], pixels[4:], 4)
    assert contains(walk, enlarged(pixels[5]))
    flat = sheets.manifold(pixels[:4], 2, "z0", "z1")
    assert contains(flat, enlarged(make_grid(pixels[:4], columns=2, scale=8, gap=0), 1))


def test_only_collapsed_rows_are_marked() -> None:
    alarm = np.array(sheets.ALARM, np.uint8)[:, None, None]
    healthy = sheets.traversal(images(9), Dimensions((3.0, 2.0, 1.0), (True,) * 3), 3)
    assert not bool((healthy == alarm).all(0).any())
    sheet = sheets.traversal(images(9), Dimensions((2.0, 0.0, 1.0), (True, False, True)), 3)
    marked = np.flatnonzero((sheet == alarm).all(0).any(1))
    bottom = sheet.shape[1] - 2 * 60
    assert len(marked)
    assert int(marked.min()) > bottom  # the last row, and no other


def test_gif_goes_there_and_back() -> None:
    frames = [np.full((1, 8, 8), level, np.uint8) for level in (0, 100, 200)]
    film = Image.open(io.BytesIO(encode_gif(frames, milliseconds=80, hold=400)))
    assert film.n_frames == 3  # type: ignore[attr-defined]
    assert film.info["loop"] == 0
    film = Image.open(
        io.BytesIO(encode_gif(frames, milliseconds=80, hold=400, there_and_back=True))
    )
    levels, times = [], []
    for index in range(film.n_frames):  # type: ignore[attr-defined]
        film.seek(index)
        levels.append(np.asarray(film.convert("L"))[0, 0])
        times.append(int(film.info["duration"]))
    assert np.abs(np.subtract(levels, [0, 100, 200, 100], dtype=float)).max() <= 255 / 31 / 2 + 1
    assert times == [480, 80, 480, 80]


def test_animation_shows_what_the_model_makes_of_the_samples() -> None:
    config = ModelConfig(image_shape=(1, 8, 8), hidden=(4,), latent_dim=2)
    model = build(config, seed=0)
    film = Animation(TorchRunner(model), seed=5, rows=1)
    film.add("epoch 0 of 1")
    with torch.no_grad():
        model.decoder.output.bias.add_(3)
    film.add("epoch 1 of 1")
    read = Image.open(io.BytesIO(film.encode()))
    assert read.n_frames == 2  # type: ignore[attr-defined]
    read.seek(1)
    last = np.array(read.convert("L"))[None]
    expected = make_grid(sample(TorchRunner(model), 8, seed=5), columns=8)
    inside = last[:, : expected.shape[1], : expected.shape[2]]
    assert np.abs(inside.astype(int) - expected).max() <= 6


def test_small_images_keep_their_mean() -> None:
    reduced = small(images(3), 14, 14)
    assert reduced.shape == (3, 14, 14, 3)
    assert abs(reduced.mean() - images(3).mean()) < 2
    assert (small(images(3, 3), 28, 28) == images(3, 3).transpose(0, 2, 3, 1)).all()


def size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize(
    ("latent_dim", "classes"), [(1, None), (1, 10), (2, None), (2, 1), (2, 11), (3, 10), (100, 10)]
)
def test_every_latent_space_can_be_drawn(latent_dim: int, classes: int | None) -> None:
    mean = torch.randn(60, latent_dim, generator=torch.Generator().manual_seed(0))
    mean[:, -1] *= 0.01
    labels = None if classes is None else np.arange(60) % classes
    kl = tuple(float(index) for index in range(latent_dim))
    judged = Evaluation(torch.zeros(60), torch.zeros(60), mean, kl)
    png = plots.latents(judged, labels, source="mnist, test split")
    assert size(png)[0] > 1000


def test_curves_of_one_epoch() -> None:
    assert size(plots.curves([EpochMetrics(1, *[100.0] * 9)]))[0] > 1000


@pytest.mark.parametrize("spread", [0.0, 0.1, 10.0])
def test_class_names_do_not_cover_each_other(spread: float) -> None:
    places = np.random.Generator(np.random.PCG64(0)).normal(0, spread, (10, 2))
    moved = plots.apart(places, 0.5)
    pairs = [np.hypot(*(one - other)) for one, other in itertools.combinations(moved, 2)]
    assert min(pairs) > 0.499
    assert np.hypot(*(moved - places).T).max() < (1.5 if spread < 1 else 1e-3)
    assert np.isfinite(plots.apart(np.zeros((3, 2)), 0.0)).all()


# colour blindness as matrices on linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_label_colours_stay_apart(sight: str) -> None:
    """CIE 1976 differences of at least 15: matplotlib's default ten colours fall to 5."""

    def lab(colour: str) -> np.ndarray:
        channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        seen = np.clip(np.array(SIGHT[sight]) @ linear, 0, 1)
        to_xyz = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
        x, y, z = np.cbrt(np.maximum(np.array(to_xyz) @ seen / [0.9505, 1, 1.0888], 216 / 24389))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for one, other in itertools.combinations(map(lab, plots.LABEL_COLOURS), 2):
        assert np.linalg.norm(one - other) >= 15
