"""The binary range coder: one function that writes or reads a bit at a given probability, in 64-bit integers only.

The interval [low, high] starts as all 64-bit numbers. A bit cuts it in proportion to its probability and
keeps one part; whenever the top 32 bits of both ends agree they are final, and leave (or enter) the
interval. There is no carry to propagate, and encoder and decoder are the same code, so they cannot drift
apart. Bytes beyond the end of the data read as zero, which lets the encoder drop trailing zeros.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["HALF", "code_bit", "code_raw", "finish", "start"]

ONE = np.uint64(1)
ZERO = np.uint64(0)
SHIFT = np.uint64(16)
WORD = np.uint64(32)
EIGHT = np.uint64(8)
LOW_WORD = np.uint64(0xFFFFFFFF)
BYTE = np.uint64(0xFF)
NARROW = np.uint64(1 << 24)
HALF = 1 << 15


@njit(cache=True, nogil=True)
def code_bit(decoding, data, low, high, value, position, probability, bit):
    """Code one bit whose probability of being 1 is ``probability`` / 2^16; returns the moved state and the bit."""
    middle = low + ((high - low) >> SHIFT) * np.uint64(probability)
    if decoding:
        bit = 1 if value <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + ONE
    while (low ^ high) >> WORD == ZERO:
        if decoding:
            value = (value << WORD) | read_word(data, position)
        else:
            write_word(data, position, low >> WORD)
        position += 4
        low = low << WORD
        high = (high << WORD) | LOW_WORD
    return low, high, value, position, bit


@njit(cache=True, nogil=True)
def read_word(data, position):
    """The 32 bits at ``position``, big-endian; zeros beyond the end."""
    word = ZERO
    for offset in range(4):
        word = word << EIGHT
        if position + offset < len(data):
            word |= np.uint64(data[position + offset])
    return word


@njit(cache=True, nogil=True)
def write_word(data, position, word):
    """Store 32 bits where they fit; the caller sees from ``position`` that the buffer was too small and repeats."""
    if position + 4 <= len(data):
        data[position] = (word >> np.uint64(24)) & BYTE
        data[position + 1] = (word >> SHIFT) & BYTE
        data[position + 2] = (word >> EIGHT) & BYTE
        data[position + 3] = word & BYTE


@njit(cache=True, nogil=True)
def code_raw(decoding, data, low, high, value, position, number, bits):
    """Code ``bits`` equally likely bits, 16 at a time; returns the moved state and the number."""
    result = 0
    while bits > 0:
        take = min(bits, 16)
        bits -= take
        part = (number >> bits) & ((1 << take) - 1)
        unit = (high - low) >> np.uint64(take)
        if unit < NARROW:  # too few numbers are left in the interval to cut it evenly
            piece = 0
            for index in range(take - 1, -1, -1):
                bit = (part >> index) & 1
                low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, HALF, bit)
                piece = (piece << 1) | bit
            result = (result << take) | piece
            continue
        if decoding:
            part = min(np.int64((value - low) // unit), (1 << take) - 1)
        low = low + unit * np.uint64(part)
        high = low + unit - ONE
        result = (result << take) | part
        while (low ^ high) >> WORD == ZERO:
            if decoding:
                value = (value << WORD) | read_word(data, position)
            else:
                write_word(data, position, low >> WORD)
            position += 4
            low = low << WORD
            high = (high << WORD) | LOW_WORD
    return low, high, value, position, result


def start(data: bytes | memoryview | None) -> np.ndarray:
    """The coder's state ``[low, high, value, position]`` before the first bit of ``data`` (None to encode)."""
    if data is None:
        return np.array([0, 2**64 - 1, 0, 0], np.uint64)
    return np.array([0, 2**64 - 1, int.from_bytes(bytes(data[:8]).ljust(8, b"\0"), "big"), 8], np.uint64)


def finish(data: bytes, low: int, high: int) -> bytes:
    """The shortest bytes that start with ``data`` and, followed by zeros, lie in the interval."""
    for kept in range(9):
        unit = 1 << (64 - 8 * kept)
        number = -(-low // unit) * unit
        if number <= high:
            return (data + number.to_bytes(8, "big")[:kept]).rstrip(b"\0")
    raise AssertionError("eight bytes name any 64-bit number")  # pragma: no cover
