"""Byte symbols at memory speed: four interleaved range asymmetric numeral systems over fixed frequency tables.

Duda, "Asymmetric numeral systems", 2013. The rows of an array fall into a few classes by how large their
symbols are, and each class has its own table: what adapts is sent beforehand, so that decoding is one table
look-up per symbol, with four states that do not wait for each other.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["BITS", "decode_rows", "decoding_table", "encode_rows", "frequencies"]

BITS = 12
WHOLE = 1 << BITS
LEAST = np.uint64(1 << 16)  # a state is at least this before it takes in 16 bits
LANES = 4
MASK = np.uint64(WHOLE - 1)
SHIFT = np.uint64(BITS)
WORD = np.uint64(16)


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Scale counts [classes, symbols] to sums of 2^12 in which every symbol that occurs keeps at least 1.

    >>> frequencies(np.array([[3, 1, 0]])).tolist()
    [[3072, 1024, 0]]
    """
    scaled = np.zeros(counts.shape, np.int64)
    for row, (count, result) in enumerate(zip(counts, scaled, strict=True)):
        total = int(count.sum())
        if total == 0:
            result[0] = WHOLE
            continue
        result[:] = np.where(count > 0, np.maximum(count * WHOLE // total, 1), 0)
        while (excess := int(result.sum()) - WHOLE) != 0:  # the most frequent symbols pay, or gain, what rounding left
            order = np.argsort(-result, kind="stable")[: max(1, abs(excess))]
            step = np.where(result[order] > 1, 1, 0) if excess > 0 else np.ones(len(order), np.int64)
            result[order] -= np.sign(excess) * step
        scaled[row] = result
    return scaled


def decoding_table(scaled: np.ndarray) -> np.ndarray:
    """For each class and each of 2^12 slots: symbol, frequency - 1 and the slot's place in it, in one uint32."""
    table = np.zeros((len(scaled), WHOLE), np.uint32)
    for row, result in enumerate(scaled):
        symbols = np.repeat(np.arange(len(result)), result)
        start = np.cumsum(result) - result
        table[row] = symbols | (result[symbols] - 1) << 8 | (np.arange(WHOLE) - start[symbols]) << 20
    return table


@njit(cache=True, nogil=True)
def encode_rows(symbols, classes, scaled, words):
    """Code ``symbols`` [rows, columns] into the end of ``words`` (uint16); returns where they begin."""
    rows, columns = symbols.shape
    starts = np.zeros(scaled.shape, np.int64)
    for kind in range(scaled.shape[0]):
        total = 0
        for symbol in range(scaled.shape[1]):
            starts[kind, symbol] = total
            total += scaled[kind, symbol]
    states = np.full(LANES, LEAST, np.uint64)
    at = len(words)
    for r in range(rows - 1, -1, -1):
        kind = classes[r]
        for c in range(columns - 1, -1, -1):
            symbol = symbols[r, c]
            frequency = np.uint64(scaled[kind, symbol])
            state = states[c & 3]
            if state >= frequency << np.uint64(20):
                at -= 1
                words[at] = state & np.uint64(0xFFFF)
                state >>= WORD
            quotient = state // frequency
            states[c & 3] = (quotient << SHIFT) + (state - quotient * frequency) + np.uint64(starts[kind, symbol])
    for lane in range(LANES - 1, -1, -1):
        at -= 1
        words[at] = states[lane] & np.uint64(0xFFFF)
        at -= 1
        words[at] = states[lane] >> WORD
    return at


@njit(cache=True, nogil=True)
def _step(state, table, kind, words, at):
    entry = np.uint64(table[kind, state & MASK])
    state = ((entry >> np.uint64(8) & MASK) + np.uint64(1)) * (state >> SHIFT) + (entry >> np.uint64(20))
    short = state < LEAST
    word = np.uint64(words[at])
    state = (state << WORD) | word if short else state
    return state, at + (1 if short else 0), np.uint8(entry & np.uint64(255))


@njit(cache=True, nogil=True)
def decode_rows(words, table, classes, symbols):
    """Decode into ``symbols``; ``words`` must go on for as many words as a row has symbols beyond what is needed.

    Returns how many words were used, or -1 where they ran out.
    """
    rows, columns = symbols.shape
    end = len(words) - columns - 2 * LANES
    a = np.uint64(words[0]) << WORD | np.uint64(words[1])
    b = np.uint64(words[2]) << WORD | np.uint64(words[3])
    c = np.uint64(words[4]) << WORD | np.uint64(words[5])
    d = np.uint64(words[6]) << WORD | np.uint64(words[7])
    at = 2 * LANES
    for r in range(rows):
        if at > end:
            return -1
        kind = classes[r]
        column = 0
        while column + 4 <= columns:
            a, at, symbols[r, column] = _step(a, table, kind, words, at)
            b, at, symbols[r, column + 1] = _step(b, table, kind, words, at)
            c, at, symbols[r, column + 2] = _step(c, table, kind, words, at)
            d, at, symbols[r, column + 3] = _step(d, table, kind, words, at)
            column += 4
        if column < columns:
            a, at, symbols[r, column] = _step(a, table, kind, words, at)
        if column + 1 < columns:
            b, at, symbols[r, column + 1] = _step(b, table, kind, words, at)
        if column + 2 < columns:
            c, at, symbols[r, column + 2] = _step(c, table, kind, words, at)
    return at
