"""One row of scores per image: to rank images, find outliers, or use the embeddings."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from vaecli.data.dataset import Images
from vaecli.data.splits_and_classes import is_known
from vaecli.evaluation.evaluate import Evaluation
from vaecli.system import extras

Row = dict[str, int | float | str | None]


def columns(result: Evaluation, images: Images, *, latents: bool) -> dict[str, list[Any]]:
    """Index, path, label, class, loss, distortion and rate in nats, and more, of each image.

    The label is empty where the model does not know the class.

    Args:
        result: the evaluation.
        images: the images it evaluated.
        latents: add the mean of q(z|x) as z0, z1, ...
    """
    found: dict[str, list[Any]] = {"index": list(range(result.n_images))}
    if images.paths is not None:
        found["path"] = [shown(path) for path in images.paths]
    if images.labels is not None:
        labels = images.labels.tolist()
        found["label"] = [label if is_known(label) else None for label in labels]
        found["class"] = [shown(images.class_name(label)) for label in labels]
    found["loss"] = _rounded(result.losses)
    found["distortion"] = _rounded(result.distortions)
    found["rate"] = _rounded(result.rates)
    if result.losses_normal is not None:
        found["prior"] = [result.prior] * result.n_images
        found["loss_normal"] = _rounded(result.losses_normal)
    if result.likelihoods is not None:
        found["nll"] = _rounded(result.likelihoods.nll)
        found["ess"] = _rounded(result.likelihoods.effective)
    if latents:
        # nine digits bring a float32 back exactly
        found |= {
            f"z{index}": [float(f"{value:.9g}") for value in column.tolist()]
            for index, column in enumerate(result.means.T)
        }
    return found


def rows(columns: dict[str, list[Any]]) -> Iterator[Row]:
    """One row per image, each a dictionary by the names of the columns."""
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def as_csv(table: Iterator[Row]) -> str:
    """The rows as CSV with a header line."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(table):
        if number == 0:
            writer.writerow(row)
        writer.writerow("" if value is None else value for value in row.values())
    return text.getvalue()


def as_jsonl(table: Iterator[Row]) -> str:
    """The rows as one JSON object per line."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in table)


def as_parquet(columns: Mapping[str, Any]) -> bytes:
    """Columns as a Parquet file.

    Args:
        columns: lists, or for vectors arrays (N, L).

    Raises:
        EnvironmentFailure: pyarrow is not installed.
    """
    extras.require("hub", "a .parquet file", ("pyarrow",))
    import pyarrow
    from pyarrow import parquet

    table = {
        name: pyarrow.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
        if isinstance(values, np.ndarray)
        else pyarrow.array(values)
        for name, values in columns.items()
    }
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(table), file)
    return file.getvalue()


def shown(path: str) -> str:
    """A path as valid UTF-8: bytes that do not decode are escaped."""
    return path.encode("utf-8", "backslashreplace").decode()


def _rounded(values: Tensor) -> list[float | None]:
    """Round to a millionth of a nat; None for NaN and infinity."""
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]
