"""Large arrays as bytes: levels as a byte and the bits below it, floats as the byte of their exponent and the others."""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["ESCAPE", "cut", "escapes", "histogram", "join", "join_floats", "part_floats", "spreads", "tallies", "window"]

ESCAPE = 255  # the byte of a level outside the window
RANGE = 1 << 16


@njit(cache=True, nogil=True)
def histogram(levels):
    """The least level, and how often it and each level above it occurs after a level of size 0, 1, 2 and more.

    No counts where they do not fit 16 bits.
    """
    least = most = levels.flat[0]
    for level in levels.flat:
        least = min(least, level)
        most = max(most, level)
    if least < -(RANGE // 2) or most >= RANGE // 2:
        return least, np.zeros((4, 0), np.int64)
    counts = np.zeros((4, most - least + 1), np.int64)
    before = 0
    for level in levels.flat:
        counts[before, level - least] += 1
        before = min(abs(level), 3)
    return least, counts


def window(least: int, counts: np.ndarray) -> tuple[int, int]:
    """The least level and the number of low bits of the 255 high bytes that hold all but 1 level in 256."""
    total = np.concatenate([[0], np.cumsum(counts)])
    for shift in range(9):
        width = ESCAPE << shift
        starts = np.arange(max(1 - width, -(RANGE // 2) - least), len(counts))
        inside = total[np.minimum(starts + width, len(counts))] - total[np.maximum(starts, 0)]
        best = len(inside) - 1 - int(inside[::-1].argmax())  # the highest of equals: bytes begin at 0, and tables are short
        if (total[-1] - inside[best]) * 256 <= total[-1]:
            break
    return int(starts[best]) + least, shift


@njit(cache=True, nogil=True)
def cut(levels, origin, shift, high, low):
    """The byte of each level above ``shift`` low bits, and those bits; returns how many lie outside the window."""
    outside = 0
    mask = (1 << shift) - 1
    for at in range(len(levels)):
        rest = levels[at] - origin
        place = rest >> shift
        if np.uint32(place) < ESCAPE:
            high[at] = place
        else:
            high[at] = ESCAPE
            outside += 1
        if shift > 0:
            low[at] = rest & mask
    return outside


@njit(cache=True, nogil=True)
def escapes(decoding, levels, origin, shift, high, values):
    """Collect the levels outside the window, less the origin and without their low bits, or put them back."""
    mask = (1 << shift) - 1
    count = 0
    for at in range(len(levels)):
        if high[at] == ESCAPE:
            if decoding:
                levels[at] = (np.int64(values[count]) << shift) + (levels[at] - origin & mask) + origin
            else:
                values[count] = (levels[at] - origin) >> shift
            count += 1


@njit(cache=True, nogil=True)
def join(high, low, shift, origin, levels):
    """The levels that :func:`cut` took apart, with low bits."""
    for at in range(len(levels)):
        levels[at] = (np.int32(high[at]) << np.int32(shift) | np.int32(low[at])) + np.int32(origin)


@njit(cache=True, nogil=True)
def spreads(rows, centre):
    """How far the symbols of each row lie from ``centre`` in all."""
    result = np.zeros(len(rows), np.int64)
    for r in range(len(rows)):
        total = np.int32(0)
        for symbol in rows[r]:
            total += abs(np.int32(symbol) - np.int32(centre))
        result[r] = total
    return result


@njit(cache=True, nogil=True)
def tallies(rows, classes, counts):
    """Count the symbols of each class of rows."""
    for r in range(len(rows)):
        kind = counts[classes[r]]
        for symbol in rows[r]:
            kind[symbol] += 1


@njit(cache=True, nogil=True)
def part_floats(bits, shift, symbols, planes):
    """The byte from bit ``shift`` on of each float, and the other bytes with what stood above that byte moved down."""
    below = (1 << shift) - 1
    for at in range(len(bits)):
        value = np.int64(bits[at])
        symbols[at] = (value >> shift) & 255
        rest = (value & below) | (value >> (shift + 8)) << shift
        for place in range(len(planes)):
            planes[place, at] = (rest >> (8 * place)) & 255


@njit(cache=True, nogil=True)
def join_floats(symbols, planes, shift, bits):
    """The bits that :func:`part_floats` took apart; one plane is the case of 16-bit floats, three of 32-bit ones."""
    below = (np.uint32(1) << np.uint32(shift)) - np.uint32(1)
    first = planes[0]
    if len(planes) == 1:
        for at in range(len(bits)):
            rest = np.uint32(first[at])
            bits[at] = (rest & below) | np.uint32(symbols[at]) << np.uint32(shift) | (rest & ~below) << np.uint32(8)
        return
    second, third = planes[1], planes[2]
    for at in range(len(bits)):
        rest = np.uint32(first[at]) | np.uint32(second[at]) << np.uint32(8) | np.uint32(third[at]) << np.uint32(16)
        bits[at] = (rest & below) | np.uint32(symbols[at]) << np.uint32(shift) | (rest & ~below) << np.uint32(8)
