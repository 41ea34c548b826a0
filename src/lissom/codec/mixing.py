"""Adaptive probabilities and their mixture in the logistic domain, in integers that are the same on every machine.

A counter is one uint32: 22 bits of probability, 10 bits of how often it was seen; in memory its first bit is flipped,
so that pages of zeros, which cost nothing until they are touched, are counters at one half. Its first steps are
large and shrink as 1/n, down to the limit of its kind: so a counter of a tiny network learns from its
first symbols. A prediction is the squashed weighted sum of the counters' stretched probabilities; the
weights follow the error (Mahoney, "Adaptive Weighing of Context Models for Lossless Data Compression",
2005). The logistic tables are made by integer multiplication of big integers, never by a machine's ``exp``.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["RANGE", "SQUASH", "chance", "counted", "learn", "predict"]

RANGE = 2839  # ln(65535) * 256: the stretched value of the least probability, 1/65536
COUNTER = np.uint32(1 << 31)


def _logistic_tables() -> tuple[np.ndarray, np.ndarray]:
    """``squash[x + RANGE]`` = 2^16 / (1 + e^(-x/256)) and its inverse ``stretch[p]``, from big integers."""
    bits = 96
    factor = term = 1 << bits  # e^(1/256) by its series
    for index in range(1, 20):
        term = term // (256 * index)
        factor += term
    power, squash = 1 << bits, []
    for _ in range(RANGE + 1):
        squash.append((power << 16) // (power + (1 << bits)))
        power = power * factor >> bits
    upper = np.clip(np.array(squash), 1, 65535)
    table = np.concatenate([65536 - upper[:0:-1], upper]).astype(np.int64)
    stretch = np.searchsorted(table, np.arange(65536)).clip(0, 2 * RANGE) - RANGE
    return table, stretch.astype(np.int32)


SQUASH, STRETCH = _logistic_tables()
STEP = np.array([65536 * 2 // (2 * n + 3) for n in range(1024)], np.int64)
TRUST = np.array([256 * 2 * n // (2 * n + 1) for n in range(1024)], np.int64)


@njit(cache=True, nogil=True)
def counted(counter, bit, limit):
    """A counter, as it lies in memory, after it has seen ``bit``."""
    count = np.int64(counter) & 1023
    probability = np.int64(counter ^ COUNTER) >> 10
    probability += (((bit << 22) - bit) - probability) * STEP[count] >> 16
    if count < limit:
        count += 1
    return np.uint32((probability << 10) | count) ^ COUNTER


@njit(cache=True, nogil=True)
def chance(counter):
    """A counter's probability of a 1 in units of 2^-16, never 0 or 1."""
    return min(max(np.int64(counter ^ COUNTER) >> 16, 1), 65535)


@njit(cache=True, nogil=True)
def predict(counters, slots, inputs, weights, first, stretched):
    """The stretched mixture of the counters at ``slots[:inputs]`` under the weights from ``first`` on."""
    total = 0
    for index in range(inputs):
        counter = np.int64(counters[slots[index]] ^ COUNTER)
        value = np.int64(STRETCH[counter >> 16]) * TRUST[counter & 1023] >> 8
        stretched[index] = value
        total += weights[first + index] * value
    return min(max(total >> 16, -RANGE), RANGE)


@njit(cache=True, nogil=True)
def learn(counters, slots, inputs, weights, first, stretched, probability, bit, rate, limit):
    """Move the weights along the error and each counter towards ``bit``."""
    error = ((bit << 16) - probability) * rate
    for index in range(inputs):
        weights[first + index] += (stretched[index] * error + (1 << 17)) >> 18
        counters[slots[index]] = counted(counters[slots[index]], bit, limit)
