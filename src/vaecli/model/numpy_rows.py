"""Matrix products whose rows do not depend on how many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 8
"""Rows of a product, filled up where there are fewer: with more, libraries round some otherwise."""

KEPT = 1 << 17
"""Numbers of the matrix that stay in the processor's cache while all rows meet them."""


def product(rows: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """`rows @ matrix`, each row to the last bit as it would be alone.

    Args:
        rows: (N, inputs).
        matrix: (inputs, outputs).

    Returns:
        (N, outputs).

    Example:
        >>> product(np.ones((1, 2)), np.ones((2, 3))).tolist()
        [[2.0, 2.0, 2.0]]
    """
    count, (inputs, outputs) = len(rows), matrix.shape
    filled = np.zeros((-(-count // ROWS) * ROWS, inputs), rows.dtype)
    filled[:count] = rows
    result = np.empty((len(filled), outputs), np.result_type(rows, matrix))
    width = KEPT // inputs if 2 * inputs <= KEPT else outputs
    for left in range(0, outputs, width):
        columns = slice(left, left + width)
        part = matrix[:, columns]
        for start in range(0, len(filled), ROWS):
            block = slice(start, start + ROWS)
            # the few rows on the right: half the time for a matrix that is stored by columns
            result[block, columns] = (part.T @ filled[block].T).T
    return result[:count]
