"""Read and write metrics.csv, one row per epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class EpochMetrics:
    """One row of metrics.csv; losses in nats per image.

    `loss`, `distortion` and `rate` always mean the bound at beta = 1 with one noise sample;
    `objective` is what was optimised.  `seconds` is the wall time of the epoch with its test pass.
    `held_out_loss` is the loss that --patience watches; without --patience the column is left out.
    """

    epoch: int
    objective: float
    train_loss: float
    train_distortion: float
    train_rate: float
    test_loss: float
    test_distortion: float
    test_rate: float
    images_per_second: float
    seconds: float
    held_out_loss: float | None = None


def encode(rows: Sequence[EpochMetrics]) -> bytes:
    """The bytes of metrics.csv."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(EpochMetrics)]
    held_out = any(row.held_out_loss is not None for row in rows)
    writer.writerow(names if held_out else names[:-1])
    for row in rows:
        epoch, *losses, images_per_second, seconds, held_out_loss = astuple(row)
        numbers = [f"{loss:.6f}" for loss in losses]
        last = [f"{held_out_loss:.6f}"] if held_out else []
        writer.writerow([epoch, *numbers, f"{images_per_second:.0f}", f"{seconds:.3f}", *last])
    return text.getvalue().encode()


def decode(data: bytes) -> list[EpochMetrics]:
    """The rows of metrics.csv.

    Raises:
        ValueError: the file was not written by `encode`.
    """
    names = {field.name for field in fields(EpochMetrics)} - {"epoch"}
    try:
        return [
            EpochMetrics(
                epoch=int(row["epoch"]),
                **{name: float(text) for name, text in row.items() if name in names},
            )
            for row in csv.DictReader(io.StringIO(data.decode(), newline=""))
        ]
    except (KeyError, TypeError, csv.Error) as error:
        raise ValueError(str(error)) from None
