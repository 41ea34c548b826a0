"""K-means in one dimension: a few centroids for many weighted numbers, by Lloyd's iteration or exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.errors import UsageError

__all__ = ["EXACT_ENTRIES", "STARTS", "assign", "exact", "kmeans", "lloyd"]

Numbers = npt.NDArray[np.float64]

EXACT_ENTRIES = 1024
"""The most centroids that are placed exactly; beyond, the density start is as good and a thousand times faster."""

EXACT_POINTS = 2**16
ROUNDS = 300


def kmeans(
    values: npt.NDArray[Any], entries: int, *, start: str = "density", counts: Numbers | None = None, seed: int = 0
) -> Numbers:
    """At most ``entries`` centroids, ascending, that lie close to ``values``.

    Args:
        values: Finite numbers of any shape.
        entries: 1 or more; where no more distinct values are there, they are the centroids.
        start: A key of :data:`STARTS`, or ``"exact"`` for the global optimum.
        counts: How much each value weighs; 1 by default.
        seed: Decides the random start.

    Raises:
        UsageError: ``start`` is ``"exact"`` with more than 1,024 entries.

    >>> kmeans(np.array([0.0, 0.1, 1.0, 1.1]), 2, start="linear").round(2).tolist()
    [0.05, 1.05]
    """
    points, inverse = np.unique(np.asarray(values, np.float64).ravel(), return_inverse=True)
    weights = np.bincount(inverse, None if counts is None else counts.ravel(), len(points)).astype(np.float64)
    if len(points) <= entries:
        return points
    if start == "exact":
        if entries > EXACT_ENTRIES:
            raise UsageError(f"exact k-means of {entries} entries: it takes at most {EXACT_ENTRIES}; start from 'density'")
        return lloyd(points, weights, exact(*_merged(points, weights, entries), entries))
    return lloyd(points, weights, STARTS[start](points, weights, entries, seed))


def assign(values: npt.NDArray[Any], centroids: Numbers) -> npt.NDArray[np.int32]:
    """The nearest centroid of each value; of two as near the lower.

    >>> assign(np.array([0.2, 0.5, 0.9]), np.array([0.0, 1.0])).tolist()
    [0, 0, 1]
    """
    middles = (centroids[1:] + centroids[:-1]) / 2
    return np.searchsorted(middles, np.asarray(values, np.float64), side="left").astype(np.int32)


def lloyd(points: Numbers, weights: Numbers, centroids: Numbers) -> Numbers:
    """Move each centroid to the mean of its members until nothing moves; a centroid without members is dropped.

    Args:
        points: Ascending and distinct.
        weights: Of each point, above 0.
        centroids: Ascending.
    """
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * points)])
    edges = np.zeros(0, np.int64)
    for _ in range(ROUNDS):
        found = np.searchsorted(points, (centroids[1:] + centroids[:-1]) / 2, side="right")
        found = np.unique(np.concatenate([[0], found, [len(points)]]))
        if np.array_equal(found, edges):
            break
        edges = found
        centroids = np.diff(moment[edges]) / np.diff(mass[edges])
    return centroids


def exact(points: Numbers, weights: Numbers, entries: int) -> Numbers:
    """The centroids of least weighted squared error (dynamic programming, arXiv:1701.07204).

    Optimal clusters are intervals of the sorted points, and the best last cut moves one way with the last point; so each
    of the ``entries`` rounds halves its search by divide and conquer: ``O(entries * n log n)``.

    Args:
        points: Ascending and distinct, at least ``entries`` of them.
        weights: Of each point, above 0.
        entries: Number of centroids.
    """
    from lissom.share.exact import cuts

    shifted = points - np.average(points, weights=weights)  # sums of squares far from zero would lose their digits
    sums = [np.concatenate([[0.0], np.cumsum(weights * shifted**power)]) for power in (0, 1, 2)]
    edges = cuts(sums[0], sums[1], sums[2], entries)
    moment = np.concatenate([[0.0], np.cumsum(weights * points)])
    centroids: Numbers = np.diff(moment[edges]) / np.diff(sums[0][edges])
    return centroids


def _merged(points: Numbers, weights: Numbers, entries: int) -> tuple[Numbers, Numbers]:
    """Neighbours merged into equal counts where there are too many points; Lloyd's iteration then settles on all of them."""
    limit = max(4 * entries, min(EXACT_POINTS, 2**24 // entries))
    if len(points) <= limit:
        return points, weights
    starts = np.linspace(0, len(points), limit, endpoint=False).astype(np.int64)
    mass = np.add.reduceat(weights, starts)
    return np.add.reduceat(weights * points, starts) / mass, mass


def _linear(points: Numbers, weights: Numbers, entries: int, seed: int) -> Numbers:  # noqa: ARG001 - one signature for all
    return np.linspace(points[0], points[-1], entries)


def _density(points: Numbers, weights: Numbers, entries: int, seed: int) -> Numbers:  # noqa: ARG001 - one signature for all
    mass = np.cumsum(weights)
    wanted = (np.arange(entries) + 0.5) / entries * mass[-1]
    return np.unique(points[np.searchsorted(mass, wanted)])


def _random(points: Numbers, weights: Numbers, entries: int, seed: int) -> Numbers:
    picked = np.random.default_rng(seed).choice(len(points), entries, replace=False, p=weights / weights.sum())
    return np.sort(points[picked])


STARTS: dict[str, Callable[[Numbers, Numbers, int, int], Numbers]] = {"linear": _linear, "density": _density, "random": _random}
"""Where centroids start: evenly over the range (the best of the three for large weights, says Deep Compression), evenly
over the counts, or at points drawn at random."""
