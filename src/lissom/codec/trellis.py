"""Trellis-coded quantization: levels on a fine grid at the price of a coarse one, found by the Viterbi algorithm.

The classic of Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources" (1990),
with entropy coding after Fischer and Wang (1992): a level's remainder by 4 is its subset, a machine of eight
states admits either the even or the odd levels next, and the level's index among those is what is coded.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["from_indices", "search", "to_indices"]

SUBSETS = np.array([[0, 2], [1, 3], [2, 0], [3, 1], [2, 0], [3, 1], [0, 2], [1, 3]], np.int64)
NEXT = np.array([[0, 1], [2, 3], [4, 5], [6, 7], [0, 1], [2, 3], [4, 5], [6, 7]], np.int64)
STATES = 8
BLOCK = 1 << 15  # positions that one search looks at together
FAR = 1e300


@njit(cache=True, nogil=True)
def to_indices(levels, indices):
    """Code each level by its index among those that its state admits; False where a level is not admitted."""
    state = 0
    for at in range(len(levels)):
        level = np.int64(levels[at])
        if (level & 1) != (state & 1):
            return False
        indices[at] = level >> 1
        state = NEXT[state, 0] if SUBSETS[state, 0] == (level & 3) else NEXT[state, 1]
    return True


@njit(cache=True, nogil=True)
def from_indices(indices, levels):
    """The levels whose indices these are; the inverse of :func:`to_indices`, modulo 2^32."""
    state = 0
    for at in range(len(indices)):
        level = (np.int64(indices[at]) << 1) | (state & 1)
        levels[at] = level
        state = NEXT[state, 0] if SUBSETS[state, 0] == (level & 3) else NEXT[state, 1]


@njit(cache=True, nogil=True)
def _candidates(value, rates, slope, cost, level):
    """The cheapest level of each subset: the nearest, or the next towards zero."""
    for subset in range(4):
        nearest = np.int64(np.floor((value - subset) / 4 + 0.5)) * 4 + subset
        cost[subset] = FAR
        for choice in (nearest, nearest - 4 if nearest > 0 else nearest + 4):
            bits = rates[min(abs(choice), len(rates) - 1)]
            total = (value - choice) * (value - choice) + slope * bits
            if total < cost[subset]:
                cost[subset] = total
                level[subset] = choice


@njit(cache=True, nogil=True)
def search(values, rates, slope, levels):
    """Choose ``levels`` for ``values`` (in units of the fine step) with the least squared error + slope * bits.

    ``rates`` are the bits of a level by its magnitude.
    """
    state = 0
    before = np.empty((BLOCK, STATES), np.int8)
    chosen = np.empty((BLOCK, STATES), np.int64)
    cost = np.empty(4)
    level = np.zeros(4, np.int64)
    for start in range(0, len(values), BLOCK):
        length = min(BLOCK, len(values) - start)
        totals = np.full(STATES, FAR)
        totals[state] = 0.0
        for at in range(length):
            _candidates(values[start + at], rates, slope, cost, level)
            better = np.full(STATES, FAR)
            for origin in range(STATES):
                if totals[origin] >= FAR:
                    continue
                for branch in range(2):
                    subset, target = SUBSETS[origin, branch], NEXT[origin, branch]
                    total = totals[origin] + cost[subset]
                    if total < better[target]:
                        better[target] = total
                        before[at, target] = origin
                        chosen[at, target] = level[subset]
            totals = better
        end = np.argmin(totals)
        state = end
        for at in range(length - 1, -1, -1):
            levels[start + at] = chosen[at, end]
            end = before[at, end]
