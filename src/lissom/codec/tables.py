"""Large arrays at memory speed: bytes under fixed frequency tables, for levels and for the exponents of floats.

Adaptive coding cannot run at memory speed; tables can. Rows fall into a few classes by how large their symbols are,
and each class has its own table, sent beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lissom.codec import planes, rans
from lissom.errors import CorruptArchive

if TYPE_CHECKING:
    from lissom.codec.stream import Stream

__all__ = ["LARGE", "PLANE", "code_dense", "code_planes", "dense"]

Levels = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
LARGE = 1 << 11  # positions from which fixed tables pay for themselves
CLASSES = 8
DENSE_BITS = 0.75  # bits a level, given the one before it, from which adaptive coding is seldom worth its time
PLANE = {"float32": 23, "float16": 8, "bfloat16": 7}  # where the byte with the exponent begins
WORDS, ORIGIN, SHIFT, PLANAR, OUTSIDE, LAST = 10, 12, 13, 14, 18, 19  # whose statistics a number follows


def dense(levels: Levels) -> tuple[int, int] | None:
    """The window of the levels' high bytes (its least level and how many low bits) where fixed tables suit them, else None."""
    least, counts = planes.histogram(np.ascontiguousarray(levels).reshape(-1))
    known = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bits = -(counts * np.log2(known, where=counts > 0, out=np.zeros(counts.shape))).sum() / levels.size
    return planes.window(int(least), counts.sum(axis=0)) if bits > DENSE_BITS else None


def code_dense(stream: Stream, levels: Levels, window: tuple[int, int]) -> None:
    """Code levels by the high byte of each in a window that holds nearly all of them, its low bits, and the others."""
    flat = np.ascontiguousarray(levels).reshape(-1)
    origin, shift = window
    origin = stream.number(origin + 2**31, ORIGIN, 2**32 - 1) - 2**31
    shift = stream.number(shift, SHIFT, 8)
    high = np.empty(0 if stream.decoding and not shift else flat.shape, np.uint8)
    low = np.empty(flat.shape if shift else 0, np.uint8)
    outside = 0 if stream.decoding else planes.cut(flat, origin, shift, high, low)
    if stream.decoding and not shift:  # straight to the levels: no other array is filled
        if code_bytes(stream, flat.reshape(levels.shape), origin) == planes.ESCAPE:
            high = (flat - origin).astype(np.uint8)
    else:
        code_bytes(stream, high.reshape(levels.shape))
    if shift:
        code_bytes(stream, low.reshape(levels.shape))
    outside = stream.number(outside, OUTSIDE, levels.size)
    if stream.decoding and outside != np.count_nonzero(high == planes.ESCAPE):
        raise CorruptArchive("a payload holds more or fewer large levels than it has places for: the file was altered")
    values = np.zeros(outside, np.int32)
    if stream.decoding and shift:
        planes.join(high, low, shift, origin, flat)
    elif outside and not stream.decoding:
        planes.escapes(False, flat, origin, shift, high, values)
    if outside:
        stream.levels(values, side=True)
        if stream.decoding:
            planes.escapes(True, flat, origin, shift, high, values)
    if stream.decoding and not np.shares_memory(flat, levels):
        levels[...] = flat.reshape(levels.shape)


def code_planes(stream: Stream, bits: npt.NDArray[Any], name: str) -> None:
    """Code floats by the byte of each that holds its exponent; the other bytes are stored as they are."""
    shift = PLANE.get(name)
    if shift is None:
        raise CorruptArchive(f"a payload holds planes of a {name}: the file was altered")
    flat = bits.reshape(-1)
    symbols = np.empty(flat.shape, np.uint8)
    others = np.empty((bits.itemsize - 1, flat.size), np.uint8)
    if not stream.decoding:
        planes.part_floats(flat, shift, symbols, others)
    code_bytes(stream, symbols.reshape(bits.shape))
    for plane in others:
        first = 0 if stream.decoding else int(plane[0])
        constant = stream.number(256 if stream.decoding or (plane != first).any() else first, PLANAR, 256)
        if constant < 256:
            plane[...] = constant
        else:
            plane[...] = np.frombuffer(stream.raw(None if stream.decoding else plane.tobytes(), plane.size), np.uint8)
    if stream.decoding:
        planes.join_floats(symbols, others, shift, flat)


def code_bytes(stream: Stream, symbols: npt.NDArray[Any], origin: int = 0) -> int:
    """Code a large array of bytes; rows of like size share a table. Decoding is in place, plus ``origin``, into any integers.

    Returns:
        The largest byte that can be among them.
    """
    rows = symbols.reshape(_rows_of(symbols), -1)
    classes = np.zeros(len(rows), np.int32) if stream.decoding else _classes(rows)
    stream.levels(classes, side=True)
    count = int(classes.max(initial=0)) + 1
    if stream.decoding and (classes.min(initial=0) < 0 or count > CLASSES):
        raise CorruptArchive(f"a payload names table {count} of at most {CLASSES}: the file was altered")
    symbols_used = stream.number(0 if stream.decoding else int(rows.max()), LAST, 255) + 1
    scaled = np.zeros((count, symbols_used), np.int32)
    if not stream.decoding:
        counts = np.zeros(scaled.shape, np.int64)
        planes.tallies(rows, classes, counts)
        scaled[...] = rans.frequencies(counts)
    stream.levels(scaled, side=True)
    if stream.decoding:
        _decode_bytes(stream, rows, classes, scaled, origin)
        return symbols_used - 1
    words = np.empty(rows.size + 2 * rans.LANES + 1, np.uint16)
    at = int(rans.encode_rows(rows, classes, rans.encoding_table(scaled), words))
    stream.number(len(words) - at, WORDS)
    stream.raw(words[at:].astype("<u2").tobytes(), 2 * (len(words) - at))
    return symbols_used - 1


def _decode_bytes(stream: Stream, rows: npt.NDArray[Any], classes: Levels, scaled: Levels, origin: int) -> None:
    if scaled.min() < 0 or (scaled.sum(axis=1, dtype=np.int64) != rans.WHOLE).any():
        raise CorruptArchive("a payload holds frequencies that do not add up: the file was altered")
    length = stream.number(0, WORDS, rows.size + 2 * rans.LANES)
    words = np.zeros(length + rows.shape[1] + 4 * rans.LANES, np.uint16)
    words[:length] = np.frombuffer(stream.raw(None, 2 * length), "<u2")
    if rans.decode_rows(words, rans.decoding_table(scaled), classes, np.int32(origin), rows) != length:
        raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")


def _rows_of(array: npt.NDArray[Any]) -> int:
    """How many rows an array is coded in: its own along the first axis where they are long enough, else of about 1024."""
    if array.ndim > 1 and array.size // len(array) >= 64:
        return len(array)
    return next((count for count in range(max(1, array.size // 1024), 0, -1) if array.size % count == 0), 1)


def _classes(rows: Bytes) -> Levels:
    """The rows in equal classes by how far their symbols lie from the commonest one."""
    count = min(CLASSES, max(1, rows.size >> 16), len(rows))
    tally = np.zeros((1, 256), np.int64)
    sample = rows[:: max(1, len(rows) // 64)]
    planes.tallies(sample, np.zeros(len(sample), np.int32), tally)
    distances = planes.spreads(rows, int(tally.argmax()))
    classes = np.empty(len(rows), np.int32)
    classes[np.argsort(distances, kind="stable")] = np.arange(len(rows)) * count // len(rows)
    return classes
