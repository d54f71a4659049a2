"""Which embedded images lie close together: nearest neighbours, and groups by k-means.

In numpy: the distances of the nearest images need no index below some 100,000 images, and k-means
is a few lines that `mixture.py` starts from too.  N points of L numbers, J centres.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecli import philox

Floats = NDArray[np.float32]
Reals = NDArray[Any]
ROWS = 512
"""Points whose distances to all others are in memory at once."""
STARTS = 5
"""Starts of k-means, of which the best is taken."""
MOST_PASSES = 100


class Neighbours(NamedTuple):
    """The K nearest others of each point, the nearest first.

    Attributes:
        places: (N, K).
        distances: (N, K), Euclidean.
    """

    places: NDArray[np.int64]
    distances: Floats


class Groups(NamedTuple):
    """Points in groups, the largest first.

    Attributes:
        group: (N,) which each is in, from 0.
        distances: (N,) to the centre of its group, Euclidean.
    """

    group: NDArray[np.int64]
    distances: Floats

    @property
    def sizes(self) -> list[int]:
        """How many points each group has."""
        sizes: list[int] = np.bincount(self.group).tolist()
        return sizes

    def nearest(self, group: int, count: int) -> NDArray[np.int64]:
        """Places of the points nearest to the centre of a group, at most so many."""
        places = np.flatnonzero(self.group == group)
        return places[self.distances[places].argsort(kind="stable")][:count]


def nearest(points: Floats, count: int) -> Neighbours:
    """The `count` nearest others of each point (N, L).

    Example:
        >>> nearest(np.array([[0.0], [1.0], [3.0]], np.float32), 1).places.tolist()
        [[1], [0], [1]]
    """
    points = points - points.mean(0)  # large means would cost digits of the squared distances
    places = np.empty((len(points), count), np.int64)
    distances = np.empty((len(points), count), np.float32)
    for start in range(0, len(points), ROWS):
        part = points[start : start + ROWS]
        rows = np.arange(len(part))
        squared = _squared_distances(part, points)
        squared[rows, start + rows] = np.inf
        found = squared.argpartition(count - 1, 1)[:, :count]
        exact = np.linalg.norm(points[found] - part[:, None], axis=2)
        order = np.lexsort((found, exact), axis=1)
        places[start : start + ROWS] = np.take_along_axis(found, order, 1)
        distances[start : start + ROWS] = np.take_along_axis(exact, order, 1)
    return Neighbours(places, distances)


def groups(points: Floats, count: int, *, seed: int) -> Groups:
    """Points (N, L) in at most `count` groups, by the best of some starts of k-means."""
    starts = philox.uniform(count, 0, STARTS, seed=seed, purpose="clusters")
    tried = [k_means(points, spread_out(points, uniform), MOST_PASSES) for uniform in starts]
    centres = min(tried, key=lambda centres: float(_to(points, centres).min(1).sum()))
    found = closest(points, centres)
    _, found, sizes = np.unique(found, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    distances = np.sqrt(_to(points, centres).min(1)).astype(np.float32)
    return Groups(rank[found].astype(np.int64), distances)


def spread_out(points: Reals, uniform: NDArray[np.float64]) -> Reals:
    """Centres (J, L) to start k-means from, each drawn far from those before it.

    Source: Arthur & Vassilvitskii 2007, k-means++

    Args:
        points: (N, L).
        uniform: (J,) draws in [0, 1); the first is not used: the first point is the first centre.
    """
    centres = points[:1]
    distances = np.square(points - centres).sum(1)
    for share in uniform[1:]:
        reach = np.cumsum(distances)
        place = min(int(np.searchsorted(reach, share * reach[-1])), len(points) - 1)
        centres = np.concatenate([centres, points[place : place + 1]])
        distances = np.minimum(distances, np.square(points - points[place]).sum(1))
    return centres


def k_means(points: Reals, centres: Reals, passes: int) -> Reals:
    """Move centres (J, L) to the means of the points (N, L) nearest to them, and again."""
    found = np.full(len(points), -1)
    for _ in range(passes):
        before, found = found, closest(points, centres)
        if (before == found).all():
            break
        counts = np.bincount(found, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, found, points)
        centres = np.where(counts[:, None], sums / np.maximum(counts, 1)[:, None], centres)
    return centres


def closest(points: Reals, centres: Reals) -> NDArray[Any]:
    """Which of the centres (J, L) is nearest to each point (N, L)."""
    found: NDArray[Any] = (np.square(centres).sum(1) - 2 * points @ centres.T).argmin(1)
    return found


def _to(points: Reals, centres: Reals) -> NDArray[Any]:
    """Squared distances (N, J), exact enough to be compared."""
    return np.stack([np.square(points - centre).sum(1) for centre in centres], 1)


def _squared_distances(some: Reals, points: Reals) -> NDArray[Any]:
    """Squared distances (R, N), up to rounding."""
    return np.asarray(
        np.square(some).sum(1)[:, None] - 2 * some @ points.T + np.square(points).sum(1)
    )
