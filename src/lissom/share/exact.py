"""The kernel of exact one-dimensional k-means: where to cut sorted points into intervals of least squared error."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy import float64, int64
from numpy.typing import NDArray

__all__ = ["cuts"]


@njit(cache=True)
def _cost(mass: NDArray[float64], moment: NDArray[float64], square: NDArray[float64], first: int, last: int) -> float:
    """Squared error of the points ``first … last - 1`` around their mean."""
    total = mass[last] - mass[first]
    along = moment[last] - moment[first]
    return float(max(square[last] - square[first] - along * along / total, 0.0))


@njit(cache=True)
def _round(
    mass: NDArray[float64],
    moment: NDArray[float64],
    square: NDArray[float64],
    before: NDArray[float64],
    clusters: int,
    errors: NDArray[float64],
    choice: NDArray[int64],
) -> None:
    """The best last cut for every prefix, given the least errors ``before`` of one cluster less."""
    points = len(mass) - 1
    stack = np.empty((128, 4), np.int64)  # the depth is at most two per halving
    stack[0] = (clusters, points, clusters - 1, points - 1)
    height = 1
    while height > 0:
        height -= 1
        low, high, from_cut, to_cut = stack[height]
        middle = (low + high) // 2
        best, cut = np.inf, from_cut
        for candidate in range(from_cut, min(to_cut, middle - 1) + 1):
            error = before[candidate] + _cost(mass, moment, square, candidate, middle)
            if error < best:
                best, cut = error, candidate
        errors[middle], choice[middle] = best, cut
        if middle > low:
            stack[height] = (low, middle - 1, from_cut, cut)
            height += 1
        if middle < high:
            stack[height] = (middle + 1, high, cut, to_cut)
            height += 1


@njit(cache=True)
def cuts(mass: NDArray[float64], moment: NDArray[float64], square: NDArray[float64], clusters: int) -> NDArray[int64]:
    """The edges ``0 = e_0 < e_1 < … < e_clusters = n`` of the intervals of least total squared error.

    Args:
        mass: Cumulative weights of the sorted points, a zero first: float64 [n + 1].
        moment: The same of weight times point.
        square: The same of weight times point squared.
        clusters: Number of intervals, 1 to n.
    """
    points = len(mass) - 1
    choices = np.zeros((clusters + 1, points + 1), np.int64)
    errors = np.full(points + 1, np.inf)
    for last in range(1, points + 1):
        errors[last] = _cost(mass, moment, square, 0, last)
    for number in range(2, clusters + 1):
        further = np.full(points + 1, np.inf)
        _round(mass, moment, square, errors, number, further, choices[number])
        errors = further
    edges = np.empty(clusters + 1, np.int64)
    edges[clusters] = points
    for number in range(clusters, 0, -1):
        edges[number - 1] = choices[number, edges[number]]
    return edges
