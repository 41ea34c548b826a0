"""The level coder of effort ``fast``: one context per bit, two adaptive probabilities that learn at different speeds."""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

from lissom.codec.rangecoder import HALF, code_bit, code_raw

__all__ = ["code_levels", "new_model"]

BINS = 64
PREFIX = 24
NEAR = 16
ACTIVE = 8
SIGNS = NEAR * ACTIVE * ACTIVE * BINS  # where the sign's probabilities begin
SUFFIX = SIGNS + 27
TOTAL = SUFFIX + 64 * 8
EDGE = 48  # keeps both probabilities away from 0 and 1


def new_model() -> tuple[np.ndarray, ...]:
    """The pairs of probabilities before the first symbol, one half each."""
    return (np.full((TOTAL, 2), HALF, np.uint16),)


@njit(cache=True, nogil=True)
def _quick_bit(decoding, data, low, high, value, position, bit, pairs, slot):
    first, second = np.int64(pairs[slot, 0]), np.int64(pairs[slot, 1])
    chance = (first + second) >> 1
    low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, chance, bit)
    if bit:
        pairs[slot, 0] = first + ((65535 - first) >> 4)
        pairs[slot, 1] = second + ((65535 - second) >> 7)
    else:
        pairs[slot, 0] = max(first - (first >> 4), 2)
        pairs[slot, 1] = max(second - (second >> 7), 2)
    return low, high, value, position, bit


@njit(cache=True, nogil=True)
def _steps(table_limit, number):
    """About 2 log2(number + 1), at most ``table_limit``."""
    number += 1
    length = 0
    while number > 3:
        number >>= 1
        length += 2
    return min(length + number - 1, table_limit)


@njit(cache=True, nogil=True)
def code_levels(decoding, data, state, levels, width, unary, link, activity, machine, model):  # noqa: ARG001 - coders are called alike
    """Code ``levels`` [rows, columns, kernel] in place; the arguments of :func:`lissom.codec.mixed_levels.code_levels`."""
    rows, columns, kernel = levels.shape
    pairs = model[0]
    column_mean = np.zeros(columns, np.int64)
    for c in range(columns):
        column_mean[c] = 16 * np.int64(link[c])
    low, high, value, position = state[0], state[1], state[2], np.int64(state[3])
    for r in range(rows):
        row_mean = np.int64(0)
        alive = 0
        for c in range(columns):
            mean = column_mean[c]
            for k in range(kernel):
                left = np.int64(levels[r, c - 1, k]) if c > 0 else 0
                up = np.int64(levels[r - 1, c, k]) if r > 0 else 0
                previous = np.int64(levels[r, c, k - 1]) if k > 0 else 0
                near = 2 * (abs(left) + abs(up)) + 3 * abs(previous) if kernel > 1 else 3 * (abs(left) + abs(up))
                context = (_steps(NEAR - 1, near) * ACTIVE + _steps(2 * ACTIVE - 1, mean >> 4) // 2) * ACTIVE
                context = (context + _steps(2 * ACTIVE - 1, row_mean >> 4) // 2) * BINS
                symbol = np.int64(levels[r, c, k])
                magnitude = abs(symbol)
                steps = 0
                while steps <= unary:
                    more = 1 if magnitude > steps else 0
                    low, high, value, position, more = _quick_bit(
                        decoding, data, low, high, value, position, more, pairs, context + steps
                    )
                    if more == 0:
                        break
                    steps += 1
                if steps > unary:
                    low, high, value, position, rest = _code_tail(
                        decoding, data, low, high, value, position, magnitude - steps, pairs, context
                    )
                    steps += rest
                if steps > 0:
                    sign_context = 0 if left == 0 else (1 if left > 0 else 2)
                    sign_context = sign_context * 3 + (0 if up == 0 else (1 if up > 0 else 2))
                    sign_context = sign_context * 3 + (0 if previous == 0 else (1 if previous > 0 else 2))
                    negative = 1 if symbol < 0 else 0
                    low, high, value, position, negative = _quick_bit(
                        decoding, data, low, high, value, position, negative, pairs, SIGNS + sign_context
                    )
                    if decoding:
                        levels[r, c, k] = -steps if negative else steps
                    alive += 1
                elif decoding:
                    levels[r, c, k] = 0
                capped = min(steps, 1 << 16) << 8
                row_mean += (capped - row_mean) >> 4
                mean += (capped - mean) >> (3 if kernel == 1 else 5)
            column_mean[c] = mean
        activity[r] = _steps(14, alive * 64 // (columns * kernel)) + (alive > 0)
    state[0], state[1], state[2], state[3] = low, high, value, np.uint64(position)


@njit(cache=True, nogil=True)
def _code_tail(decoding, data, low, high, value, position, rest, pairs, context):
    """Exp-Golomb of ``rest`` >= 0: prefix and the two top suffix bits adaptive, the others as they are."""
    exponent = 0
    while exponent < 34:
        more = 1 if ((rest + 1) >> (exponent + 1)) > 0 else 0
        slot = context + PREFIX + min(exponent, BINS - PREFIX - 1)
        low, high, value, position, more = _quick_bit(decoding, data, low, high, value, position, more, pairs, slot)
        if more == 0:
            break
        exponent += 1
    number = 1
    left = exponent
    while left > 0 and exponent - left < 2:
        left -= 1
        bit = ((rest + 1) >> left) & 1
        slot = SUFFIX + exponent * 8 + number
        low, high, value, position, bit = _quick_bit(decoding, data, low, high, value, position, bit, pairs, slot)
        number = (number << 1) | bit
    if left > 0:
        tail = (rest + 1) & ((1 << left) - 1)
        low, high, value, position, raw = code_raw(decoding, data, low, high, value, position, tail, left)
        number = (number << left) | raw
    return low, high, value, position, number - 1
