"""Single numbers, mantissas and text through the range coder: what a payload holds beside levels."""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit

from lissom.codec.mixing import RANGE, SQUASH, chance, counted, learn, predict
from lissom.codec.rangecoder import code_bit, code_raw, start

__all__ = ["code_mantissas", "code_number", "code_text", "new_numbers", "taught"]

MODELLED = 3  # mantissa bits that are not noise
ORDERS = 6  # contexts of a text bit: 0 to 4 bytes before it, and the longest match
TEXT_SLOTS = 1 << 16  # contexts of one order
PRIMED_SLOTS = 1 << 13


def new_numbers() -> np.ndarray:
    """Counters of :func:`code_number` and :func:`code_mantissas` before the first one."""
    return np.zeros(64 * 64 + 64 * 8, np.uint32)


@njit(cache=True, nogil=True)
def code_number(decoding, data, state, number, kind, counters):
    """Code 0 <= number < 2^63 by Exp-Golomb with adaptive prefix; ``kind`` (below 64) says which statistics it follows."""
    low, high, value, position = state[0], state[1], state[2], np.int64(state[3])
    exponent = 0
    while exponent < 62:
        more = 1 if (number + 1) >> (exponent + 1) > 0 else 0
        slot = kind * 64 + exponent
        likely = chance(counters[slot])
        low, high, value, position, more = code_bit(decoding, data, low, high, value, position, likely, more)
        counters[slot] = counted(counters[slot], more, 30)
        if more == 0:
            break
        exponent += 1
    rest = (number + 1) & ((1 << exponent) - 1)
    low, high, value, position, rest = code_raw(decoding, data, low, high, value, position, rest, exponent)
    state[0], state[1], state[2], state[3] = low, high, value, np.uint64(position)
    return (1 << exponent) + rest - 1


@njit(cache=True, nogil=True)
def code_mantissas(decoding, data, state, classes, mantissas, bits, counters):
    """Code a mantissa of ``bits`` bits for each non-zero class: the top three adaptive by class, the rest as they are."""
    low, high, value, position = state[0], state[1], state[2], np.int64(state[3])
    modelled = min(bits, MODELLED)
    left = bits - modelled
    for index in range(len(classes)):
        kind = min(abs(np.int64(classes[index])), 63)
        if kind == 0:
            continue
        mantissa = np.int64(mantissas[index])
        number = 1
        for shift in range(bits - 1, left - 1, -1):
            bit = (mantissa >> shift) & 1
            slot = 64 * 64 + kind * 8 + number
            likely = chance(counters[slot])
            low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, likely, bit)
            counters[slot] = counted(counters[slot], bit, 250)
            number = (number << 1) | bit
        rest = mantissa & ((1 << left) - 1)
        low, high, value, position, rest = code_raw(decoding, data, low, high, value, position, rest, left)
        if decoding:
            mantissas[index] = ((number - (1 << modelled)) << left) | rest
    state[0], state[1], state[2], state[3] = low, high, value, np.uint64(position)


@cache
def _taught(primer: bytes) -> tuple[np.ndarray, ...]:
    slots = PRIMED_SLOTS if primer else TEXT_SLOTS
    counters, weights = np.zeros(ORDERS * slots, np.uint32), np.full(256 * ORDERS, 65536 * 2 // 5, np.int64)
    model = counters, weights, np.zeros(slots, np.int32), np.zeros(2, np.int64)
    code_text(False, np.zeros(0, np.uint8), start(None), np.frombuffer(bytearray(primer), np.uint8), 0, *model)
    return model


def taught(primer: bytes) -> tuple[np.ndarray, ...]:
    """The model of :func:`code_text` after it has seen ``primer``: counters, weights, matches, and the match it is in.

    Short texts follow a primer, and have a small model, which costs little to copy.
    """
    return tuple(part.copy() if primer else part for part in (_taught if primer else _taught.__wrapped__)(primer))


@njit(cache=True, nogil=True)
def code_text(decoding, data, state, text, first, counters, weights, last, matched):
    """Code ``text[first:]`` in place, a byte at a time, by the model that has learnt ``text[:first]``.

    Bits are predicted by the last 0 to 4 bytes and by what followed the longest earlier match of at least
    five bytes, and the predictions are mixed.
    """
    low, high, value, position = state[0], state[1], state[2], np.int64(state[3])
    slots = np.zeros(ORDERS, np.int64)
    bases = np.zeros(ORDERS, np.int64)
    stretched = np.zeros(ORDERS, np.int64)
    size = len(last)  # contexts of an order; ``last`` says where the last five bytes stood before, plus one
    match, length = matched[0], matched[1]
    for index in range(first, len(text)):
        history = np.int64(0)
        for order in range(1, 5):
            if index >= order:
                history = (history << 8) | np.int64(text[index - order])
            bases[order] = ((history + order * 40503) * 2654435761 & 0xFFFFFFFF) >> 8 & 0xFFFF00
        expected = np.int64(text[match]) if length > 0 else 0
        symbol = np.int64(text[index])
        node = 1
        for shift in range(7, -1, -1):
            agrees = length > 0 and ((expected | 256) >> (shift + 1)) == node
            for order in range(5):
                slots[order] = order * size + ((bases[order] >> 8 ^ node * 0x9E5) & (size - 1))
            slots[0] = node
            guess = (expected >> shift) & 1
            slots[5] = 5 * size + (min(length, 31) * 2 + guess + 1 if agrees else 0)
            start = (min(length, 15) if agrees else 0) * ORDERS
            probability = SQUASH[predict(counters, slots, ORDERS, weights, start, stretched) + RANGE]
            bit = (symbol >> shift) & 1
            low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, probability, bit)
            learn(counters, slots, ORDERS, weights, start, stretched, probability, bit, 40, 250)
            node = (node << 1) | bit
        symbol = node & 255
        if decoding:
            text[index] = symbol
        if length > 0 and expected == symbol:
            length += 1
            match += 1
        else:
            length = 0
        if index >= 4:
            key = np.int64(0)
            for order in range(5):
                key = (key * 0x2F0B4C47 + np.int64(text[index - order]) + 1) & 0xFFFFFFFF
            key = (key ^ (key >> 15)) & (size - 1)
            if length == 0 and last[key] > 0:
                match = last[key]
                while length < 32 and match - 1 - length >= 0 and text[match - 1 - length] == text[index - length]:
                    length += 1
            last[key] = index + 1
    matched[0], matched[1] = match, length
    state[0], state[1], state[2], state[3] = low, high, value, np.uint64(position)
