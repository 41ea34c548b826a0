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

__all__ = ["BITS", "decode_rows", "decoding_table", "encode_rows", "encoding_table", "frequencies"]

BITS = 12
WHOLE = 1 << BITS
LEAST = np.uint64(1 << 16)  # a state is at least this before it takes in 16 bits
LANES = 4
MASK = np.uint64(WHOLE - 1)
SHIFT = np.uint64(BITS)
WORD = np.uint64(16)
LOW_WORD = np.uint64(0xFFFF)
ONE = np.uint64(1)


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


@njit(cache=True, nogil=True)
def decoding_table(scaled: np.ndarray) -> np.ndarray:
    """For each class and each of 2^12 slots: symbol, frequency - 1 and the slot's place in it, in one uint32."""
    table = np.empty((len(scaled), WHOLE), np.uint32)
    for row in range(len(scaled)):
        at = 0
        for symbol in range(scaled.shape[1]):
            for place in range(scaled[row, symbol]):
                table[row, at] = symbol | (scaled[row, symbol] - 1) << 8 | place << 20
                at += 1
    return table


def encoding_table(scaled: np.ndarray) -> np.ndarray:
    """For each class and symbol: frequency, where its slots start, and 2^44 / frequency rounded up, in three uint64.

    A state that is divided is below frequency * 2^20, so that (state * reciprocal) >> 44 is its exact quotient.
    """
    table = np.zeros((*scaled.shape, 3), np.uint64)
    table[..., 0] = scaled
    table[..., 1] = np.cumsum(scaled, axis=1) - scaled
    table[..., 2] = -(-(1 << 44) // np.maximum(scaled, 1).astype(np.int64))
    return table


@njit(cache=True, nogil=True)
def _put(state, entry, words, at):
    frequency = entry[0]
    words[at - ONE] = state & LOW_WORD
    full = state >= frequency << np.uint64(20)
    state = state >> WORD if full else state
    at = at - ONE if full else at
    quotient = (state * entry[2]) >> np.uint64(44)
    return (quotient << SHIFT) + (state - quotient * frequency) + entry[1], at


@njit(cache=True, nogil=True)
def encode_rows(symbols, classes, table, words):
    """Code ``symbols`` [rows, columns] into the end of ``words`` (uint16); returns where they begin.

    ``words`` needs a place for every symbol and one before them all.
    """
    rows, columns = symbols.shape
    states = np.full(LANES, LEAST, np.uint64)
    at = np.uint64(len(words))
    whole = columns & ~3
    for r in range(rows - 1, -1, -1):
        row = symbols[r]
        kind = table[classes[r]]
        for c in range(columns - 1, whole - 1, -1):
            states[c & 3], at = _put(states[c & 3], kind[row[c]], words, at)
        d, e, f, g = states[0], states[1], states[2], states[3]
        for c in range(whole - 4, -1, -4):
            g, at = _put(g, kind[row[c + 3]], words, at)
            f, at = _put(f, kind[row[c + 2]], words, at)
            e, at = _put(e, kind[row[c + 1]], words, at)
            d, at = _put(d, kind[row[c]], words, at)
        states[0], states[1], states[2], states[3] = d, e, f, g
    for lane in range(LANES - 1, -1, -1):
        words[at - ONE] = states[lane] & LOW_WORD
        words[at - ONE - ONE] = states[lane] >> WORD
        at -= np.uint64(2)
    return at


@njit(cache=True, nogil=True)
def _step(state, table, words, at):
    entry = np.uint64(table[state & MASK])
    state = ((entry >> np.uint64(8) & MASK) + np.uint64(1)) * (state >> SHIFT) + (entry >> np.uint64(20))
    short = state < LEAST
    word = np.uint64(words[at])
    state = (state << WORD) | word if short else state
    return state, at + ONE if short else at, np.int32(entry & np.uint64(255))


@njit(cache=True, nogil=True)
def decode_rows(words, table, classes, origin, symbols):
    """Decode into ``symbols``, of any integers, each plus ``origin``.

    ``words`` must go on for as many words as a row has symbols beyond what is needed.

    Returns how many words were used, or -1 where they ran out.
    """
    rows, columns = symbols.shape
    end = np.uint64(len(words) - columns - 2 * LANES)
    a = np.uint64(words[0]) << WORD | np.uint64(words[1])
    b = np.uint64(words[2]) << WORD | np.uint64(words[3])
    c = np.uint64(words[4]) << WORD | np.uint64(words[5])
    d = np.uint64(words[6]) << WORD | np.uint64(words[7])
    at = np.uint64(2 * LANES)
    whole = columns & ~3
    for r in range(rows):
        if at > end:
            return -1
        kind = table[classes[r]]
        row = symbols[r]
        for column in range(0, whole, 4):
            a, at, symbol = _step(a, kind, words, at)
            row[column] = symbol + origin
            b, at, symbol = _step(b, kind, words, at)
            row[column + 1] = symbol + origin
            c, at, symbol = _step(c, kind, words, at)
            row[column + 2] = symbol + origin
            d, at, symbol = _step(d, kind, words, at)
            row[column + 3] = symbol + origin
        if whole < columns:
            a, at, symbol = _step(a, kind, words, at)
            row[whole] = symbol + origin
        if whole + 1 < columns:
            b, at, symbol = _step(b, kind, words, at)
            row[whole + 1] = symbol + origin
        if whole + 2 < columns:
            c, at, symbol = _step(c, kind, words, at)
            row[whole + 2] = symbol + origin
    return np.int64(at)
