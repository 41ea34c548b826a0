"""Trellis-coded quantization: levels on a fine grid at the price of a coarse one, found by the Viterbi algorithm.

The classic of Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources" (1990),
with entropy coding after Fischer and Wang (1992). Levels by 4 are four subsets, labelled by their two low bits.
A machine, Ungerboeck's systematic feedback encoder (1982), admits the even levels in even states and the odd
levels in odd ones, so a level costs no more than on the grid of twice the step; its second bit drives the machine.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["MACHINES", "admitted", "from_indices", "moved", "search"]

MACHINES = {
    0: (0, 0), 4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24), 128: (0o235, 0o126),
}  # fmt: skip
"""By number of states, the parity-check polynomials of the machine; 0 is no trellis, which admits every level."""

BLOCK = 1 << 14  # positions that one search looks at together
FAR = 1e300


@njit(cache=True, nogil=True)
def moved(state, level, low, high):
    """The machine's next state: the two low bits of ``level`` switch its two polynomials on."""
    return (state ^ (low if level & 1 else 0) ^ (high if level & 2 else 0)) >> 1


@njit(cache=True, nogil=True)
def admitted(levels, machine):
    """Whether each of ``levels`` [rows, columns, kernel], in this order, is one that its state admits."""
    state = 0
    for level in levels.flat:
        if (level ^ state) & 1:
            return False
        state = moved(state, level, machine[0], machine[1])
    return True


@njit(cache=True, nogil=True)
def from_indices(levels, machine):
    """In place, the levels whose indices among those that their state admits ``levels`` holds: level >> 1."""
    state = 0
    for at in range(len(levels)):
        level = (np.int64(levels[at]) << 1) | (state & 1)
        levels[at] = level
        state = moved(state, level, machine[0], machine[1])


@njit(cache=True, nogil=True)
def _candidates(value, rates, slope, cost, level):
    """The cheapest level of each subset: the nearest, or the next towards zero."""
    most = rates.shape[1] - 1
    for subset in range(4):
        nearest = np.int64(np.floor((value - subset) / 4 + 0.5)) * 4 + subset
        cost[subset] = FAR
        for choice in (nearest, nearest - 4 if nearest > 0 else nearest + 4):
            bits = rates[subset & 1, min(abs(choice) >> 1, most)]
            total = (value - choice) * (value - choice) + slope * bits
            if total < cost[subset]:
                cost[subset] = total
                level[subset] = choice


@njit(cache=True, nogil=True)
def search(values, weights, rates, slope, states, machine, state, levels):
    """Choose ``levels`` for ``values`` (in units of the fine step) with the least weighted squared error + slope * bits.

    ``weights`` multiplies each squared error (one weight stands for all of them); ``rates`` [2, magnitudes] are the bits
    of a level by its parity and half its magnitude. The path starts in ``state``; returns the one it ends in.
    """
    before = np.empty((BLOCK, states), np.uint8)
    chosen = np.empty((BLOCK, 4), np.int64)
    cost = np.empty(4)
    totals, better = np.empty(states), np.empty(states)
    origins = np.zeros((2, states), np.int64)  # the two ways into each state: from where, and by which subset
    subsets = np.zeros((2, states), np.int64)
    found = np.zeros(states, np.int64)
    for origin in range(states):
        for branch in range(2):
            subset = origin & 1 | branch << 1
            target = moved(origin, subset, machine[0], machine[1])
            way = found[target]
            found[target] += 1
            origins[way, target], subsets[way, target] = origin, subset
    for start in range(0, len(values), BLOCK):
        length = min(BLOCK, len(values) - start)
        totals[:] = FAR
        totals[state] = 0.0
        for at in range(length):
            weight = weights[start + at] if len(weights) > 1 else weights[0]
            _candidates(values[start + at], rates, slope / weight, cost, chosen[at])
            for target in range(states):
                first = totals[origins[0, target]] + weight * cost[subsets[0, target]]
                second = totals[origins[1, target]] + weight * cost[subsets[1, target]]
                before[at, target] = 1 if second < first else 0
                better[target] = min(first, second)
            totals, better = better, totals
        end = np.argmin(totals)
        state = end
        for at in range(length - 1, -1, -1):
            way = before[at, end]
            levels[start + at] = chosen[at, subsets[way, end]]
            end = origins[way, end]
    return state
