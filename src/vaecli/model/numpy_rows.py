"""Matrix products whose rows do not depend on how many there are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 8
"""Rows of a product, filled up where there are fewer: with more, libraries round some otherwise."""


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
    result = np.empty((len(rows), matrix.shape[1]), np.result_type(rows, matrix))
    for start in range(0, len(rows), ROWS):
        block = rows[start : start + ROWS]
        count = len(block)
        if count < ROWS:
            filled = np.zeros((ROWS - count, block.shape[1]), block.dtype)
            block = np.concatenate([block, filled])
        result[start : start + count] = (block @ matrix)[:count]
    return result
