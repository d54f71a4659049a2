"""Figures by matplotlib, which is imported nowhere else."""

from __future__ import annotations

import io
from collections.abc import Sequence

from vaecli.run import EpochMetrics

BLUE, ORANGE = "#0072b2", "#d55e00"
"""Two colours of the Okabe-Ito palette, which colour-blind readers can tell apart."""


def curves(rows: Sequence[EpochMetrics]) -> bytes:
    """Loss, distortion and rate per epoch, train and test, as PNG bytes."""
    # the object interface: pyplot would load a window toolkit
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row.epoch for row in rows]
    for axes, term in zip(figure.subplots(1, 3), ("loss", "distortion", "rate"), strict=True):
        for part, colour, style in (("train", BLUE, "--"), ("test", ORANGE, "-")):
            values = [getattr(row, f"{part}_{term}") for row in rows]
            axes.plot(epochs, values, style, color=colour, label=part, marker=".", markersize=5)
        last = getattr(rows[-1], f"test_{term}")
        axes.set_title(f"{term} (test {last:.2f})", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("nats per image")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()
