"""The built-in `digits` dataset: handwritten-looking 0-9, drawn by code.

Nothing is downloaded and no font is used. Every image starts as a template: a few pen strokes,
given by points. The points wobble, a smooth curve is laid through them, the whole is bent,
slanted and stretched, and a soft pen inks it. Images are composed the way MNIST's are: 28 x 28,
white on black, the ink fitted into 20 x 20 with its centre of mass in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["VERSION", "draw_digits"]

VERSION = 2  # A cached copy is keyed by this: raise it whenever the pixels change.

# Machines differ in the last bits of a float: in float64 those are far too small to move a pixel.
_Floats = NDArray[np.float64]

_SEED = 0xD1617  # The dataset's own; a user's seed never changes the dataset.
_SPLITS = {"train": (0, 60_000), "test": (1, 10_000)}  # Random stream, number of images.

_SIDE = 28  # Pixels along an edge of an image.
_BOX = 20  # Pixels along the longer side of the box the ink is fitted into.
_FINE = 2  # Ink is dropped on a grid this many times finer than the pixels.
_DENSITY = 50  # Pen positions per page height of stroke.
_CHUNK = 1000  # Images drawn at once, which bounds the memory to about 100 megabytes.

# One template a line: the digit, how common the form is, and its strokes as points x,y on a page
# of 100 x 100, y pointing down. A smooth curve passes through the points, "!" makes the point
# before it a sharp corner, and "/" lifts the pen.
_TEMPLATES = """
0 3   52,2 28,18 20,52 30,86 52,98 74,84 82,50 72,16 46,6 34,14
0 2   68,10 46,3 26,26 20,62 34,92 58,96 78,66 78,28 62,6 44,8
0 1   44,20 26,22 16,55 32,92 58,96 84,66 82,28 58,4 40,12 48,30
0 2   46,16 72,10 96,40 80,76 46,88 12,76 4,46 20,22 52,12
0 2   50,4 20,20 10,52 24,86 54,98 84,82 92,48 78,14 46,4
0 2   80,0 56,8 28,24 16,58 30,92 56,96 82,66 80,30 56,10 30,22
1 5   50,0 50,50 50,100
1 3   68,2 50,50 32,98
1 0.5 36,2 52,50 64,98
1 1   30,24 56,0! 52,98
1 0.8 32,20 54,0! 52,97 / 26,98 80,96
2 3   18,26 32,6 58,2 76,20 66,50 40,78 16,97! 50,95 86,96
2 3   20,24 36,5 64,4 78,24 64,54 38,84 18,94 12,82 28,76 54,90 90,96
2 2   14,30 34,6 64,6 76,30 58,62 26,90! 46,86 64,96 90,90
2 2   24,10 52,2 74,14 70,44 44,80 20,96 6,82 24,68 50,84 96,78
2 1   34,14 54,2 70,18 62,50 44,86 24,96 16,80 36,70 58,88 74,96 88,84
2 1   24,40 22,14 50,2 76,18 70,56 44,94 20,96 10,76 30,66 60,84 88,96
2 1   30,8 52,4 62,20 54,56 40,90! 62,92 84,84
3 3   20,14 46,2 72,14 68,36 42,48! 72,58 80,80 50,98 16,88
3 1   18,8 48,7 78,4! 44,42! 74,54 80,78 56,97 18,92
3 2   22,14 48,2 72,16 62,38 42,50 36,46 48,44 74,58 76,82 48,98 16,86
3 2   18,10 50,2 72,18 52,42 44,47 58,50 76,70 58,94 28,98 14,90
3 1   26,6 60,4 74,18 48,44! 66,50 72,68 50,88 12,97
3 1   14,20 40,4 76,10 72,34 36,50! 66,50 82,68 66,92 30,96 12,80
4 3   24,6 16,52! 48,51 84,48 / 74,2 70,50 66,98
4 2   22,8 18,38 28,54 52,56 80,46 / 78,6 72,50 66,98
4 1   60,2 36,34 12,64! 50,64 90,60 / 62,2 60,50 58,98
4 2   24,8 16,40 38,54 66,42 78,6! 70,56 66,98
4 1   40,2 26,30 12,60! 50,58 92,52 / 68,34 62,64 56,98
4 1   30,14 30,44 56,48 94,38 / 86,2 62,50 40,98
4 1   66,6 44,22 22,56! 50,56 86,54 / 74,2 66,50 54,98
5 2   34,6 28,46! 56,40 80,58 74,86 44,98 16,88 / 34,7 58,7 84,4
5 2   82,4 58,6 38,6! 28,46! 58,40 80,60 72,88 42,98 14,88
5 2   84,6 60,8 40,16 32,40 52,48 72,64 64,90 36,97 12,84
5 2   42,12 30,44 54,42 70,58 62,84 34,97 4,88 / 42,12 70,8 104,2
5 1   86,2 62,6 44,8! 34,42 50,44 62,60 56,82 34,96 10,90
5 1   36,14 34,40! 60,38 76,58 66,88 40,98 20,82 24,74 / 38,12 82,8
6 3   66,2 40,28 22,66 32,94 58,96 74,76 62,60 38,66 22,82
6 2   76,8 50,6 28,36 20,74 42,98 72,86 70,62 46,56 24,74
6 2   58,0 34,36 22,72 36,97 60,92 66,72 48,66 28,82
6 1   64,10 30,36 14,70 34,95 70,92 96,70 84,50 56,58 34,86
6 1   54,2 34,34 24,70 34,94 60,96 82,80 76,62 52,66 30,88
7 3   14,12 46,10 82,8! 62,50 44,98
7 2   14,38 18,12! 50,10 80,7! 58,54 42,98
7 2   16,14 48,10 76,8! 64,36 52,66 48,98
7 2   14,12 46,10 82,8! 62,50 42,98 / 30,54 54,52 82,48
7 2   12,22 34,8 64,5 76,18 60,56 44,98
8 3   74,14 50,2 28,16 36,38 62,56 74,80 50,98 26,82 36,58 60,40 74,16
8 1   50,2 30,12 30,36 50,46 70,34 68,12 48,2 / 50,46 24,62 26,88 50,98 76,86 74,60 48,46
8 2   78,12 52,2 28,20 46,44 68,66 60,94 36,95 28,74 50,50 82,12
8 2   66,8 46,4 34,20 44,42 56,60 56,88 40,98 28,84 40,58 62,34 68,14 58,4
8 1   72,12 46,4 24,20 40,42 60,62 56,92 42,97 36,84 50,54 76,26 72,10
8 1   88,2 64,14 44,6 28,18 36,36 56,54 62,82 44,98 26,86 38,60 62,38 90,4
8 2   80,14 58,4 32,14 38,36 58,52 60,80 38,96 20,82 34,60 62,40 96,8
9 3   72,16 48,4 26,22 34,44 58,40 74,14! 70,56 66,98
9 2   72,18 48,4 24,24 34,48 60,42 74,18 76,56 64,88 34,97
9 2   70,12 44,6 24,32 38,48 64,34 72,12! 60,54 46,98
9 2   62,8 36,8 26,32 46,46 68,28 64,6 70,40 66,98
9 3   84,8 52,8 20,24 22,42 50,44 80,14! 60,60 44,98
9 1   68,22 56,4 34,10 28,34 44,46 64,34 72,10! 70,60 58,92 38,94 28,84
9 2   78,14 46,4 16,34 24,64 52,62 78,24! 80,60 74,98
9 1   76,10 54,2 34,22 44,36 62,26 74,10! 56,58 42,98
"""


class _Template(NamedTuple):
    """A form of a digit: the pen goes through `basis @ points`."""

    digit: int
    weight: float
    points: _Floats  # (points, 2), x and y from the middle of a page that is 1 high.
    tips: list[int]  # The points at which a stroke starts or ends.
    basis: _Floats  # (positions, points)
    inked: NDArray[np.bool_]  # (positions - 1,): whether the pen is down between two positions.


def _curve(count: int, samples: int) -> NDArray[np.float64]:
    """Weights (samples, count) of a Catmull-Rom curve through `count` points."""
    # The curve needs one more point past either end: the neighbour, reflected in the end.
    eye = np.eye(count)
    padded = np.vstack([2 * eye[0] - eye[1], eye, 2 * eye[-1] - eye[-2]])
    t = np.linspace(0, count - 1, samples)
    i = np.minimum(t.astype(int), count - 2)
    cubic = np.array([[-1, 3, -3, 1], [2, -5, 4, -1], [-1, 0, 1, 0], [0, 2, 0, 0]]) / 2
    weights = np.vander(t - i, 4) @ cubic
    return np.asarray(np.einsum("sk,skp->sp", weights, padded[i[:, None] + np.arange(4)]))


def _parse(line: str) -> _Template:
    """Read one line of the table."""
    digit, weight, path = line.split(maxsplit=2)
    pairs: list[list[str]] = []
    tips: list[int] = []
    spans: list[tuple[int, int]] = []  # The range of points of each smooth piece.
    for stroke in path.split("/"):
        start = len(pairs)
        tips.append(start)
        for piece in stroke.split("!"):
            pairs += [pair.split(",") for pair in piece.split()]
            spans.append((start, len(pairs)))
            start = len(pairs) - 1  # A corner ends one piece and starts the next.
        tips.append(start)
    points = np.array(pairs, np.float64) / 100 - 0.5

    pieces: list[NDArray[np.float64]] = []
    for start, stop in spans:
        length = np.linalg.norm(np.diff(points[start:stop], axis=0), axis=1).sum()
        curve = _curve(stop - start, samples=2 + int(_DENSITY * length))
        pieces.append(curve @ np.eye(len(points))[start:stop])
    basis = np.vstack(pieces)
    # Only a pen that is up goes straight from tip to tip.
    at_tip = basis[:, tips].max(axis=1) == 1
    inked = ~(at_tip[:-1] & at_tip[1:])
    return _Template(int(digit), float(weight), points, tips, basis, inked)


def _trace(template: _Template, n: int, rng: np.random.Generator) -> _Floats:
    """Write a template n times, each in another hand: pen positions, (n, positions, 2)."""
    # Tips wander most, which leaves gaps and overshoots where strokes should meet.
    wobble = rng.normal(0, 0.03, (n, *template.points.shape))
    wobble[:, template.tips] *= 1.6
    points = template.basis @ (template.points + wobble)

    # Bend the page: a few slow waves push every position about.
    for _ in range(3):
        wave = rng.normal(0, 3.5, (n, 2, 1))
        phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
        push = rng.normal(0, 0.03, (n, 1, 2))
        points += push * np.sin(points @ wave + phase)

    width = np.exp(rng.normal(0.06, 0.18, n))
    slant = rng.normal(0.14, 0.22, n)
    angle = rng.normal(0, 0.1, n)
    cos, sin = np.cos(angle), np.sin(angle)
    # Rows are x and y, so this is stretch and slant [[width, 0], [-slant, 1]], then rotation.
    affine = np.array([[width * cos, width * sin], [-slant * cos - sin, cos - slant * sin]])
    return np.asarray(points @ affine.transpose(2, 0, 1))


def _ink(
    points: _Floats, inked: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[_Floats, _Floats, _Floats]:
    """Compose pen positions (n, positions, 2) and give them ink.

    Returns:
        Where the ink is, in pixels (n, steps, 2), how much (n, steps), and the pen's width (n,).
    """
    n = len(points)
    steps = np.hypot(*np.moveaxis(np.diff(points, axis=1), 2, 0)) * inked
    extent = np.ptp(points, axis=1).max(axis=1)
    # The more path is crammed into the box, the finer the pen, or the loops of an 8 would fill.
    crammed = steps.sum(axis=1) / extent
    pen = np.exp(rng.normal(0, 0.22, n).clip(-0.45, 0.3)) * (crammed / 2.3) ** -0.2
    scale = (_BOX - 2.2 * pen) / extent  # Ink reaches about 1.1 pen widths to either side.

    # A step leaves ink in proportion to its length and to the pen's slowly changing pressure.
    swing = rng.exponential(0.1, (n, 1)).clip(0, 0.35)
    wave, phase = rng.uniform(2, 8, (n, 1)), rng.uniform(0, 2 * np.pi, (n, 1))
    pressure = 1 + swing * np.sin(wave * np.linspace(0, 1, len(inked)) + phase)
    ink = steps * pressure * scale[:, None]
    # Where it comes down or lifts the pen rests for a moment, so strokes end blunt.
    around = np.pad(inked, 1)
    rests = inked & ~(around[:-2] & around[2:])
    ink += 0.5 * pen[:, None] * rests

    places = (points[:, 1:] + points[:, :-1]) / 2 * scale[:, None, None]
    mass = np.einsum("nsx,ns->nx", places, ink) / ink.sum(axis=1)[:, None]
    places += _SIDE / 2 - mass[:, None]
    return places, ink, pen


def _soak(places: _Floats, ink: _Floats, pen: _Floats) -> NDArray[np.uint8]:
    """Let the ink that `_ink` placed spread on the paper: images, (n, 28, 28)."""
    # Drop it on a fine grid, the images of the batch one below the other.
    n, grid = len(places), _SIDE * _FINE
    cells = np.clip((places * _FINE).astype(np.int64), 0, grid - 1)
    index = (np.arange(n)[:, None] * grid + cells[..., 1]) * grid + cells[..., 0]
    drops = np.bincount(index.ravel(), ink.ravel(), n * grid * grid)

    # It spreads by a Gaussian, scaled so that a long straight stroke peaks at 1.
    pen = pen[:, None, None]
    pixels = np.arange(_SIDE)[:, None] + 0.5
    fine = (np.arange(grid) + 0.5) / _FINE
    blur = np.exp(-(((pixels - fine) / pen) ** 2) / 2)  # (n, 28, grid)
    peak = pen * math.sqrt(2 * math.pi)
    spread = blur @ drops.reshape(n, grid, grid) @ blur.transpose(0, 2, 1) / peak

    # Paper is either soaked or dry, but for an edge about a pixel wide whatever the pen.
    edge = 0.55 / pen
    dry = np.maximum(0.48 - edge / 2, 0.06)
    images = np.clip((spread - dry) / edge, 0, 1)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    return np.asarray(np.rint(images * 255), np.uint8)


def _draw(
    rng: np.random.Generator,
    labels: NDArray[np.uint8],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8]:
    """Draw one image per label, (N, 1, 28, 28)."""
    pixels = np.empty((len(labels), 1, _SIDE, _SIDE), np.uint8)
    templates = [_parse(line) for line in _TEMPLATES.strip().splitlines()]
    done = 0
    for digit in range(10):
        forms = [template for template in templates if template.digit == digit]
        weights = np.array([form.weight for form in forms])
        where = np.flatnonzero(labels == digit)
        choice = rng.choice(len(forms), len(where), p=weights / weights.sum())
        for number, form in enumerate(forms):
            chosen = where[choice == number]
            for start in range(0, len(chosen), _CHUNK):
                batch = chosen[start : start + _CHUNK]
                pixels[batch, 0] = _soak(*_ink(_trace(form, len(batch), rng), form.inked, rng))
                done += len(batch)
                if progress is not None:
                    progress(done, len(labels))
    return pixels


def draw_digits(
    split: Literal["train", "test"], *, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one split of the dataset; every call gives the same images.

    Args:
        split: "train" has 60,000 images and "test" 10,000, from independent random streams.
        progress: Called now and then with the number of images drawn so far and of all.

    Returns:
        Pixels (N, 1, 28, 28), white ink on black, and labels (N,), both uint8.
    """
    stream, count = _SPLITS[split]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(_SEED, spawn_key=(stream,))))
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    return _draw(rng, labels, progress), labels
