"""Exact arrays of any dtype in a payload: constants, few distinct values, floats by exponent and mantissa, integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.dtypes import FLOATS, bits_of
from lissom.codec.stream import Stream
from lissom.codec.tables import LARGE, PLANE, code_planes
from lissom.errors import CorruptArchive

__all__ = ["code_array", "signed_ranks"]

Bits = npt.NDArray[Any]
CONSTANT, TABLE, FLOAT, INTEGER, DIFFERENCE, HALVES, PLANES = range(7)
MODE, WORD, COUNT, PLACE, TRAILING = 3, 4, 5, 6, 7  # whose statistics a number follows
MANY = 1 << 16


def code_array(stream: Stream, array: npt.NDArray[Any]) -> None:
    """Code ``array`` exactly, bit by bit; in place when decoding (it must be C-contiguous)."""
    bits = bits_of(array)
    if bits.size == 0:
        return
    name = array.dtype.name
    mode = 0 if stream.decoding else _choose(bits, name, quick=stream.effort == "fast")
    mode = stream.number(mode, MODE, len(_MODES) - 1)
    if mode in (TABLE, FLOAT) and name not in FLOATS:
        raise CorruptArchive(f"a payload holds the {name} numbers of a tensor as floats: the file was altered")
    _MODES[mode](stream, bits, name)


def _choose(bits: Bits, name: str, *, quick: bool) -> int:
    """The mode that costs least, by what is known without coding; planes decode so fast that others must save a quarter."""
    if (bits == bits.flat[0]).all():
        return CONSTANT
    if name in FLOATS:
        planes = quick and name in PLANE and bits.size >= LARGE and 8 * int(np.count_nonzero(bits)) > 7 * bits.size
        if _repeats(bits, *FLOATS[name], planes=planes):
            return TABLE
        return PLANES if planes else FLOAT
    signed = _signed(bits, name)
    if int(signed.min()) < -(2**31) or int(signed.max()) >= 2**31:
        return HALVES
    wide = signed.astype(np.int64)
    if bits.ndim == 1 and bits.size > 2:
        steps = np.abs(np.diff(wide))
        if steps.max() < 2**31 and 4 * int(steps.sum()) < int(np.abs(wide).sum()):
            return DIFFERENCE
    return INTEGER


def _repeats(bits: Bits, exponent_bits: int, mantissa_bits: int, *, planes: bool) -> bool:
    """Whether so few values occur that a table of them, and ranks, cost less than exponents and mantissas do."""
    flat = bits.reshape(-1)
    if bits.itemsize == 2:
        values, counts = _occurring(flat)
    else:
        if len(np.unique(flat[: 2 * MANY])) > min(bits.size, 2 * MANY) // 2:
            return False
        values, counts = np.unique(flat, return_counts=True)
    if len(values) > MANY:
        return False
    zeros = int(counts[values == 0].sum())
    used = int(np.bitwise_or.reduce(values)) & ((1 << mantissa_bits) - 1)
    mantissa = mantissa_bits if planes else mantissa_bits - ((used & -used).bit_length() - 1) if used else 0
    classes = (values >> mantissa_bits).astype(np.int64)
    classes[values == 0] = 1 << (exponent_bits + 1)
    floats = _entropy(np.bincount(classes, counts)) + mantissa * (bits.size - zeros)
    return bool(_entropy(counts) + (exponent_bits // 2 + mantissa) * len(values) < (0.75 if planes else 1.0) * floats)


def _occurring(flat: Bits) -> tuple[Bits, npt.NDArray[np.int64]]:
    counts = np.bincount(flat, minlength=MANY)
    values = np.flatnonzero(counts)
    return values.astype(flat.dtype), counts[values]


def _entropy(counts: npt.NDArray[Any]) -> float:
    """Bits of all symbols by how often each occurs."""
    counts = counts[counts > 0].astype(np.float64)
    return float((counts * np.log2(counts.sum() / counts)).sum())


def _signed(bits: Bits, name: str) -> Bits:
    return bits.view(f"i{bits.itemsize}") if name.startswith("int") else bits


def _constant(stream: Stream, bits: Bits, _: str) -> None:
    value = 0 if stream.decoding else int(bits.flat[0])
    low = stream.number(value & 0xFFFFFFFF, WORD, 2**32 - 1)
    high = stream.number(value >> 32, WORD, 2**32 - 1) if bits.itemsize == 8 else 0
    if stream.decoding:
        bits[...] = _within(low | high << 32, 8 * bits.itemsize)


def _within(value: int, width: int) -> int:
    if value >> width:
        raise CorruptArchive(f"a payload holds {value} as a number of {width} bits: the file was altered")
    return value


def _table(stream: Stream, bits: Bits, name: str) -> None:
    values = np.zeros(0, bits.dtype) if stream.decoding else np.unique(bits)
    count = stream.number(len(values), COUNT, MANY)
    if stream.decoding:
        values = np.empty(count, bits.dtype)
    _float(stream, values, name)
    order, place = signed_ranks(values)
    if stream.decoding:
        symbols = np.zeros(bits.shape, np.int32)
        stream.levels(symbols)
        ranks = symbols.astype(np.int64) + place
        if count == 0 or ranks.min() < 0 or ranks.max() >= count:
            raise CorruptArchive("a payload points outside its table of values: the file was altered")
        bits[...] = values[order][ranks]
    else:
        ranks_of = np.empty(count, np.int32)
        ranks_of[order] = np.arange(count, dtype=np.int32)
        stream.levels(ranks_of[np.searchsorted(values, bits)] - np.int32(place))


def signed_ranks(values: Bits) -> tuple[npt.NDArray[np.int64], int]:
    """Sort float bits by value: the order, and the place in it of zero (or else of the least positive value).

    A level then becomes a signed rank around zero: small where the value is small, which is what the
    level coder is good at.

    >>> signed_ranks(np.float32([0.5, -1, 0]).view(np.uint32))
    (array([1, 2, 0]), 1)
    """
    sign = values.dtype.type(1 << (8 * values.itemsize - 1))
    keys = np.where(values & sign, ~values, values | sign)
    order = np.argsort(keys, kind="stable")
    return order, min(int(np.searchsorted(keys[order], sign)), max(len(values) - 1, 0))


def _float(stream: Stream, bits: Bits, name: str) -> None:
    """Exponents as signed levels below the largest (+0.0 is level zero), then the mantissas' bits that are in use."""
    exponent_bits, mantissa_bits = FLOATS[name]
    wide = np.zeros(bits.shape, np.int64) if stream.decoding else bits.astype(np.int64, casting="unsafe")
    field = (wide >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissas = wide & ((1 << mantissa_bits) - 1)
    used = np.bitwise_or.reduce(mantissas, axis=None) if mantissas.size else 0
    trailing = min(mantissa_bits, (int(used) & -int(used)).bit_length() - 1 if used else mantissa_bits)
    trailing = stream.number(trailing, TRAILING, mantissa_bits)
    top = stream.number(int(field.max(initial=0)), PLACE, (1 << exponent_bits) - 1)
    signs = np.where(bits >> (exponent_bits + mantissa_bits), -1, 1)
    classes = np.where(bits != 0, signs * (1 + top - field), 0).astype(np.int32)
    stream.levels(classes)
    mantissas = np.ascontiguousarray(mantissas >> trailing)
    stream.mantissas(classes, mantissas, mantissa_bits - trailing)
    if stream.decoding:
        fields = 1 + top - np.abs(classes.astype(np.int64))
        if ((fields < 0) & (classes != 0)).any():
            raise CorruptArchive("a payload holds an exponent that its dtype lacks: the file was altered")
        negative = (classes < 0).astype(np.int64) << (exponent_bits + mantissa_bits)
        whole = negative | fields << mantissa_bits | mantissas << trailing
        bits[...] = np.where(classes != 0, whole, 0).astype(bits.dtype)


def _integer(stream: Stream, bits: Bits, name: str) -> None:
    _from_symbols(stream, bits, name, lambda symbols: symbols, lambda symbols: symbols)


def _difference(stream: Stream, bits: Bits, name: str) -> None:
    _from_symbols(stream, bits, name, lambda wide: np.diff(wide, prepend=0), np.cumsum)


def _from_symbols(stream: Stream, bits: Bits, name: str, forth: Any, back: Any) -> None:
    if stream.decoding:
        symbols = np.zeros(bits.shape, np.int32)
        stream.levels(symbols)
        bits[...] = back(symbols.astype(np.int64)).astype(np.uint64).astype(bits.dtype).reshape(bits.shape)
    else:
        stream.levels(forth(_signed(bits, name).astype(np.int64)).astype(np.int32))


def _halves(stream: Stream, bits: Bits, _: str) -> None:
    """Wide integers, 16 bits at a time from the highest."""
    for shift in range(8 * bits.itemsize - 16, -1, -16):
        part = np.asarray(bits >> np.array(shift, bits.dtype) & np.array(0xFFFF, bits.dtype)).astype(np.int32)
        if stream.decoding:
            part[...] = 0
        stream.levels(part)
        if stream.decoding:
            piece = (part.astype(np.uint64) & np.uint64(0xFFFF)).astype(bits.dtype) << np.array(shift, bits.dtype)
            kept = ~(np.array(0xFFFF, bits.dtype) << np.array(shift, bits.dtype))
            bits[...] = (bits & kept) | piece


_MODES = (_constant, _table, _float, _integer, _difference, _halves, code_planes)
