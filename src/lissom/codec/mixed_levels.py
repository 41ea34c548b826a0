"""The level coder of effort ``best``: every bit is predicted by several contexts at once, mixed by their record so far."""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import numpy as np
from numba import njit

from lissom.codec.mixing import RANGE, SQUASH, chance, counted, learn, predict
from lissom.codec.rangecoder import code_bit, code_raw
from lissom.codec.trellis import moved

__all__ = ["code_levels", "new_model"]

INPUTS = 10  # contexts of a magnitude bit
SIGN_INPUTS = 5
BINS = 64  # bits of one magnitude: zero and up to 20 unary steps, Exp-Golomb prefix bits, and the first ones again
SLOTS = 4096  # contexts of one input
PREFIX = 24
PREFIXES = 16
ODD = PREFIX + PREFIXES  # where zero and unary steps stand in an odd state of a trellis
LOCAL = 32  # contexts that choose a set of mixing weights
TAIL = INPUTS * SLOTS * BINS  # where the sign's counters begin
TOTAL = TAIL + SIGN_INPUTS * SLOTS
REFINED = 33
WEIGHTS = np.full((BINS + 1) * LOCAL * INPUTS, 65536 * 2 // 5, np.int64)
TABLES = np.tile(SQUASH[(np.arange(REFINED) * 2 * RANGE) // (REFINED - 1)] << 6, (BINS + 1) * LOCAL).astype(np.int64)


def new_model() -> tuple[np.ndarray, ...]:
    """Counters, mixing weights, refinement table and suffix counters before the first symbol."""
    suffix = np.zeros(64 * 8, np.uint32)
    ages = np.zeros((BINS + 1) * LOCAL, np.int64)
    return np.zeros(TOTAL, np.uint32), WEIGHTS.copy(), TABLES.copy(), suffix, ages


@njit(cache=True, nogil=True)
def _mixed_bit(decoding, data, coder, bit, model, slots, inputs, choice, stretched):
    low, high, value, position = coder
    counters, weights, refined, _, ages = model
    rate = 5 + 640 // (64 + ages[choice])
    ages[choice] += 1
    first = choice * INPUTS
    mixture = predict(counters, slots, inputs, weights, first, stretched)
    probability = SQUASH[mixture + RANGE]
    # Refine: what really happened when the mixture said this, between the two nearest of 33 steps.
    place = (mixture + RANGE) * (REFINED - 1)
    step = min(place // (2 * RANGE), REFINED - 2)
    share = place - step * (2 * RANGE)
    cell = choice * REFINED + step
    better = (refined[cell] * (2 * RANGE - share) + refined[cell + 1] * share) // (2 * RANGE) >> 6
    final = min(max((probability + better + 1) >> 1, 1), 65535)
    low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, final, bit)
    learn(counters, slots, inputs, weights, first, stretched, probability, bit, rate, 255)
    near = cell + (1 if share * 2 > 2 * RANGE else 0)
    refined[near] += (((bit << 22) - bit) - refined[near]) >> 7
    return (low, high, value, position), bit


@njit(cache=True, nogil=True)
def _size(magnitude):
    """The magnitude in eight classes: 0, 1, 2, 3-4, 5-8, 9-16, 17-64, more."""
    if magnitude <= 2:
        return magnitude
    if magnitude <= 4:
        return 3
    if magnitude <= 8:
        return 4
    if magnitude <= 16:
        return 5
    return 6 if magnitude <= 64 else 7


@njit(cache=True, nogil=True)
def _logarithm(number):
    """About 4 log2(number) for number >= 1, in integers."""
    length = 0
    shifted = number
    while shifted > 7:
        shifted >>= 1
        length += 1
    # shifted is now 1 to 7
    if shifted >= 4:
        return 4 * length + 8 + (shifted - 4)
    if shifted >= 2:
        return 4 + 2 * (shifted - 2)
    return 0


@njit(cache=True, nogil=True)
def _code_tail(decoding, data, coder, rest, suffix, model, bases, slots, choice, stretched):
    """Exp-Golomb of ``rest`` >= 0: the prefix mixed, the three top suffix bits adaptive, the others as they are."""
    exponent = 0
    while True:
        more = 1 if ((rest + 1) >> (exponent + 1)) > 0 else 0
        bin_ = PREFIX + min(exponent, PREFIXES - 1)
        for index in range(INPUTS):
            slots[index] = bases[index] + bin_
        coder, more = _mixed_bit(decoding, data, coder, more, model, slots, INPUTS, bin_ * LOCAL + choice, stretched)
        if more == 0 or exponent == 33:
            break
        exponent += 1
    low, high, value, position = coder
    number = 1
    left = exponent
    while left > 0 and exponent - left < 3:
        left -= 1
        slot = exponent * 8 + number if number < 8 else 0
        bit = ((rest + 1) >> left) & 1
        counter = suffix[slot]
        low, high, value, position, bit = code_bit(decoding, data, low, high, value, position, chance(counter), bit)
        suffix[slot] = counted(counter, bit, 255)
        number = (number << 1) | bit
    if left > 0:
        low, high, value, position, raw = code_raw(
            decoding, data, low, high, value, position, (rest + 1) & ((1 << left) - 1), left
        )
        number = (number << left) | raw
    return (low, high, value, position), number - 1


@njit(cache=True, nogil=True)
def code_levels(decoding, data, state, levels, width, unary, link, activity, machine, model):
    """Code ``levels`` [rows, columns, kernel] in place; ``link`` hints at each column, ``activity`` receives each row's.

    ``width`` is the kernel's width, ``unary`` how many steps come before Exp-Golomb. ``machine`` is a trellis' two
    polynomials, both 0 where there is none: on a trellis, half a level's magnitude is coded.
    """
    rows, columns, kernel = levels.shape
    suffix = model[3]
    slots = np.zeros(INPUTS, np.int64)
    bases = np.zeros(INPUTS, np.int64)
    stretched = np.zeros(INPUTS, np.int64)
    column_sum = np.zeros(columns, np.int64)
    column_slow = np.zeros(columns, np.int64)
    coder = (state[0], state[1], state[2], np.int64(state[3]))
    admits = np.int64(0)  # the machine's state
    halved = 1 if machine[0] > 0 else 0
    for r in range(rows):
        row_fast = np.int64(0)
        row_sum = np.int64(0)
        for c in range(columns):
            kernel_sum = 0
            seen = r * kernel
            for k in range(kernel):
                left = np.int64(levels[r, c - 1, k]) if c > 0 else 0
                left2 = np.int64(levels[r, c - 2, k]) if c > 1 else 0
                up = np.int64(levels[r - 1, c, k]) if r > 0 else 0
                up2 = np.int64(levels[r - 2, c, k]) if r > 1 else 0
                corner = np.int64(levels[r - 1, c - 1, k]) if r > 0 and c > 0 else 0
                previous = np.int64(levels[r, c, k - 1]) if k > 0 else 0
                above = np.int64(levels[r, c, k - width]) if k >= width else 0
                if kernel == 1 and width > 1 and c >= width:
                    above = np.int64(levels[r, c - width, 0])
                right = np.int64(levels[r - 1, c + 1, k]) if r > 0 and c + 1 < columns else 0
                a, b, p, v = abs(left), abs(up), abs(previous), abs(above)
                near = 2 * (a + b + p + v) + abs(corner) + abs(right) + abs(left2) + abs(up2)
                column = min(max(_logarithm(16 * column_sum[c] + 8) - _logarithm(seen + k + 2) + 8, 0), 63)
                slow = min(max(_logarithm(column_slow[c] + 1), 0), 63)
                row = min(_logarithm(row_fast + 1), 63)
                whole = min(max(_logarithm(16 * row_sum + 8) - _logarithm(c * kernel + k + 2) + 8, 0), 63)
                surroundings = min(_logarithm(near + 1), 63)
                hint = link[c]
                bases[0] = (
                    (_size(a) * 8 + _size(b)) * 64 + min(_size(p), 3) * 16 + min(_size(v), 3) * 4 + min(_size(abs(corner)), 3)
                )
                bases[1] = column * 64 + whole
                bases[2] = slow * 64 + _size(b) * 8 + _size(abs(up2))
                bases[3] = row * 64 + _size(a) * 8 + _size(abs(left2))
                bases[4] = surroundings * 64 + min(hint, 15) * 4 + min(_size(p), 3)
                bases[5] = min(k, 63) * 64 + _size(p) * 8 + min(_logarithm(kernel_sum + 1) // 2, 7)
                bases[6] = c & 4095
                bases[7] = min(hint, 15) * 256 + column * 4 + min(_size(a), 3)
                bases[8] = slow * 64 + row
                bases[9] = surroundings * 64 + whole
                odd = admits & 1
                for index in range(INPUTS):
                    bases[index] = (index * SLOTS + bases[index]) * BINS
                choice = min(surroundings // 2, 31) if near > 0 else 0
                symbol = np.int64(levels[r, c, k])
                coder, magnitude, negative = _code_symbol(
                    decoding,
                    data,
                    coder,
                    abs(symbol) >> halved,
                    symbol < 0,
                    odd,
                    unary,
                    suffix,
                    model,
                    bases,
                    slots,
                    choice,
                    stretched,
                    _signs(left, up, previous, corner),
                    c,
                    above,
                )
                magnitude = magnitude << halved | odd
                symbol = -magnitude if negative else magnitude
                admits = moved(admits, symbol, machine[0], machine[1])
                if decoding:
                    levels[r, c, k] = symbol
                capped = min(magnitude, 1 << 20)
                kernel_sum += capped
                row_sum += capped
                column_sum[c] += capped
                row_fast += ((capped << 8) - row_fast) >> 4
                column_slow[c] += ((capped << 8) - column_slow[c]) >> (3 if kernel == 1 else 5)
        activity[r] = min(max(_logarithm(64 * row_sum // (columns * kernel) + 1) if row_sum > 0 else 0, 0), 14) + (row_sum > 0)
    state[0], state[1], state[2], state[3] = coder[0], coder[1], coder[2], np.uint64(coder[3])


@njit(cache=True, nogil=True)
def _signs(left, up, previous, corner):
    code = 0
    for level in (left, up, previous, corner):
        code = code * 3 + (0 if level == 0 else (1 if level > 0 else 2))
    return code


@njit(cache=True, nogil=True)
def _code_symbol(
    decoding, data, coder, magnitude, negative, odd, unary, suffix, model, bases, slots, choice, stretched, signs, c, above
):
    """A magnitude, and the sign where it is not zero or where the state is odd, which admits no zero."""
    steps = 0
    while steps <= unary:
        for index in range(INPUTS):
            slots[index] = bases[index] + ODD * odd + steps
        more = 1 if magnitude > steps else 0
        coder, more = _mixed_bit(
            decoding, data, coder, more, model, slots, INPUTS, (ODD * odd + steps) * LOCAL + choice, stretched
        )
        if more == 0:
            break
        steps += 1
    if steps > unary:
        coder, rest = _code_tail(decoding, data, coder, magnitude - steps, suffix, model, bases, slots, choice, stretched)
        steps += rest
    if steps == 0 and odd == 0:
        return coder, 0, 0
    big = min(_size(steps), 3)
    slots[0] = TAIL + signs * 4 + big
    slots[1] = TAIL + SLOTS + (c & 4095)
    slots[2] = TAIL + 2 * SLOTS + signs // 27
    slots[3] = TAIL + 3 * SLOTS + (0 if above == 0 else (1 if above > 0 else 2)) * 16 + (signs // 3) % 3 * 4 + big
    slots[4] = TAIL + 4 * SLOTS
    negative = 1 if negative else 0
    coder, negative = _mixed_bit(decoding, data, coder, negative, model, slots, SIGN_INPUTS, BINS * LOCAL, stretched)
    return coder, steps, negative
