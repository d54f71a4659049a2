"""Figures by matplotlib, which is imported nowhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaecli.evaluation.evaluate import Evaluation
from vaecli.evaluation.latent_space import Dimensions, Plane, plane
from vaecli.runs.metrics import EpochMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#b0b0b0"
"""Two colours of the Okabe-Ito palette, which colour-blind readers can tell apart, and a grey."""
LABEL_COLOURS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Ten colours that stay apart under colour blindness (Petroff 2021, arXiv:2107.02270)."""
MOST_BARS = 64
FONT = 12


def curves(rows: Sequence[EpochMetrics]) -> bytes:
    """Loss, distortion and rate per epoch, train and test, as PNG bytes."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(10.5, 3.6)
    epochs = [row.epoch for row in rows]
    for axes, term in zip(figure.subplots(1, 3), ("loss", "distortion", "rate"), strict=True):
        for part, colour, style in (("train", BLUE, "--"), ("test", ORANGE, "-")):
            values = [getattr(row, f"{part}_{term}") for row in rows]
            axes.plot(epochs, values, style, color=colour, label=part, marker=".", markersize=5)
        last = getattr(rows[-1], f"test_{term}")
        axes.set_title(f"{term}: {last:.2f} on test", fontsize=FONT)
        axes.set_xlabel("epoch", fontsize=FONT)
        axes.set_ylabel(f"{term} (nats per image)", fontsize=FONT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.grid(alpha=0.25)
        _plain(axes)
    figure.axes[0].legend(frameon=False, fontsize=FONT)
    return _png(figure)


def latents(
    evaluation: Evaluation,
    labels: NDArray[Any] | None,
    *,
    source: str,
    seen: Plane | None = None,
) -> bytes:
    """Where images lie in the latent space, and the KL of each dimension, as PNG bytes.

    Args:
        evaluation: of N images.
        labels: (N,) class numbers for the colours, or None; more than ten are not coloured.
        source: what the images are, such as `mnist, test split`.
        seen: the images in two dimensions; None for PCA.
    """
    figure = _figure(11, 5.4)
    left, right = figure.subplots(1, 2, width_ratios=(5.7, 4.7))
    seen, classes = seen or plane(evaluation.means.numpy()), labels
    if classes is not None and len(np.unique(classes)) > len(LABEL_COLOURS):
        classes = None
    _scatter(left, seen, classes)
    left.set_title(
        f"{evaluation.n_images:,} images ({source})\nmean of q(z|x): {seen.title}", fontsize=FONT
    )
    _bars(right, Dimensions.of(evaluation.scaled_means.numpy(), evaluation.kl_per_dim))
    return _png(figure)


def _scatter(axes: Axes, seen: Plane, classes: NDArray[Any] | None) -> None:
    """Points coloured by class, in a mixed order so that none lies on top, each class named."""
    points = seen.points
    across = points[:, 0]
    if points.shape[1] == 1:
        shift = np.random.Generator(np.random.PCG64(0)).uniform(-0.35, 0.35, len(points))
        up = shift if classes is None else shift + classes
    else:
        up = points[:, 1]
    order = np.random.Generator(np.random.PCG64(0)).permutation(len(points))
    if classes is None:
        colours: Any = BLUE
        names: list[int] = []
    else:
        names = sorted(np.unique(classes).tolist())
        palette = np.array(LABEL_COLOURS)
        colours = palette[np.searchsorted(names, classes)][order]
    size = float(np.clip(60_000 / len(points), 4, 30))
    axes.scatter(across[order], up[order], s=size, c=colours, alpha=0.75, linewidths=0)
    axes.set_xlabel(seen.names[0], fontsize=FONT)
    if len(seen.names) > 1:
        axes.set_ylabel(seen.names[1], fontsize=FONT)
        axes.set_aspect("equal", adjustable="datalim")
    else:
        axes.set_ylabel("label (spread out)" if names else "(spread out)", fontsize=FONT)
    if len(seen.names) > 1 and names:
        _name_classes(axes, across, up, classes, names)
    _plain(axes)


def _name_classes(
    axes: Axes, across: NDArray[Any], up: NDArray[Any], classes: Any, names: list[int]
) -> None:
    """Each class number near the median of its points, and all of them in a legend."""
    points = np.column_stack([across, up])
    medians = np.stack([np.median(points[classes == name], 0) for name in names])
    places = apart(medians, 0.065 * float(np.ptp(points, 0).max()))
    for name, colour, (x, y) in zip(names, LABEL_COLOURS, places, strict=False):
        axes.scatter([], [], s=60, color=colour, label=str(name))
        axes.text(
            x,
            y,
            str(name),
            fontsize=11,
            fontweight="bold",
            color="white" if _is_dark(colour) else "black",
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.2", "fc": colour, "ec": "white", "lw": 1.2},
        )
    axes.legend(
        title="label",
        fontsize=11,
        title_fontsize=11,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        handletextpad=0.1,
        borderaxespad=0,
    )


def apart(places: NDArray[Any], distance: float) -> NDArray[Any]:
    """Places (N, 2) moved no further than needed to be `distance` from each other."""
    turns = np.arange(len(places))
    # places that coincide have no direction to leave in
    places = places + 1e-3 * distance * np.column_stack([np.cos(turns), np.sin(turns)])
    for _ in range(200):
        gaps = places[:, None] - places
        lengths = np.hypot(*np.moveaxis(gaps, -1, 0))
        np.fill_diagonal(lengths, np.inf)
        missing = np.clip(distance - lengths, 0, None)
        if missing.max(initial=0) <= 1e-3 * distance:
            break
        places = places + (gaps * (missing / lengths / 4)[..., None]).sum(1)
    return places


def _is_dark(colour: str) -> bool:
    """Whether white text is easier to read on it than black: its luminance is below 0.18."""
    channels = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    luminance = channels**2.2 @ [0.2126, 0.7152, 0.0722]
    return bool(luminance < 0.18)


def _bars(axes: Axes, dimensions: Dimensions) -> None:
    """KL per dimension, largest first; collapsed dimensions in grey."""
    order = dimensions.by_kl[:MOST_BARS]
    kl, active = dimensions.kl, dimensions.active
    colours = [BLUE if active[index] else GREY for index in order]
    axes.bar(range(len(order)), [kl[index] for index in order], color=colours, width=0.8)
    axes.set_xlim(-0.7, max(len(order), 6) - 0.3)
    few = len(order) <= 24
    if few:
        axes.set_xticks(range(len(order)), [f"z{index}" for index in order])
        axes.tick_params("x", labelsize=9, length=0, rotation=90 if len(order) > 12 else 0)
    rest = len(kl) - len(order)
    axes.set_xlabel(
        "latent dimension, largest KL first"
        + ("" if few else ": rank")
        + (f" ({rest} smaller ones left out)" if rest else ""),
        fontsize=FONT,
    )
    axes.set_ylabel("KL to the prior (nats per image)", fontsize=FONT)
    collapsed = active.count(False)
    counts = f"{active.count(True)} active" + (f", {collapsed} collapsed (grey)" * (collapsed > 0))
    axes.set_title(f"rate {sum(kl):.2f} nats per image\ndimensions: {counts}", fontsize=FONT)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    _plain(axes)


def _figure(width: float, height: float) -> Figure:
    # the object interface: pyplot would load a window toolkit
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
