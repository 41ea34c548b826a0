"""Quantized tensors in a payload: one array of signed symbols, beside the table or the scales that decode them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.arrays import code_array, signed_ranks
from lissom.codec.stream import Stream
from lissom.codec.tensors import Quantized, Table, Uniform, spread
from lissom.codec.trellis import MACHINES
from lissom.errors import CorruptArchive, InputRefused

__all__ = ["checked", "code_decoding", "from_symbols", "to_symbols"]

Symbols = npt.NDArray[np.int32]
ENTRIES, LENGTH = 8, 9  # whose statistics a number follows
MOST = 1 << 16
STATES = ", ".join(str(states) for states in MACHINES if states)


def checked(name: str, tensor: Quantized) -> Quantized:
    """The tensor with contiguous arrays of the documented dtypes.

    Raises:
        InputRefused: levels outside the table, or parameters whose shape does not fit.
    """
    levels = np.ascontiguousarray(tensor.levels, np.int32).reshape(tensor.levels.shape)
    decoding = tensor.decoding
    if isinstance(decoding, Table):
        values = np.ascontiguousarray(decoding.values, np.float32)
        if values.ndim != 1 or len(values) > MOST:
            raise InputRefused(f"{name}: a table of shape {values.shape}; it takes one axis of at most {MOST} values")
        if levels.size and (levels.min() < 0 or levels.max() >= len(values)):
            raise InputRefused(f"{name}: levels from {levels.min()} to {levels.max()} do not fit a table of {len(values)} values")
        return Quantized(levels, Table(values), tensor.mask, tensor.dtype)
    scale = np.asarray(decoding.scale, np.float32)
    zero_point = np.broadcast_to(np.asarray(decoding.zero_point, np.int32), scale.shape)
    axes: list[tuple[int, int]] = list(zip(scale.shape, levels.shape, strict=False))
    fits = scale.ndim in (0, levels.ndim) and all(1 <= entries <= length or entries == length for entries, length in axes)
    if not fits:
        raise InputRefused(f"{name}: scales of shape {scale.shape} do not fit levels of shape {levels.shape}")
    if tensor.trellis and (zero_point.any() or tensor.mask is not None or tensor.trellis not in MACHINES):
        raise InputRefused(f"{name}: a trellis has {STATES} states, and its levels take neither a zero point nor a mask")
    return Quantized(levels, Uniform(scale, zero_point), tensor.mask, tensor.dtype, tensor.trellis)


def code_decoding(stream: Stream, decoding: Table | Uniform | None, shape: tuple[int, ...], *, table: bool) -> Table | Uniform:
    """Code how levels decode: the table's values, or scales and zero points."""
    if table:
        values = decoding.values if isinstance(decoding, Table) else np.zeros(0, np.float32)
        count = stream.number(len(values), ENTRIES, MOST)
        return Table(_coded(stream, values, (count,), "float32"))
    scale, zero_point = (decoding.scale, decoding.zero_point) if isinstance(decoding, Uniform) else (np.zeros(()), np.zeros(()))
    entries: list[int] = []
    if stream.number(int(scale.ndim > 0), LENGTH, 1):
        for axis, length in enumerate(shape):
            given = 0 if stream.decoding else scale.shape[axis]
            number = stream.number(0 if given == 1 else 1 if given == length else given, LENGTH, max(length, 1))
            entries.append(1 if number == 0 else length if number == 1 else number)
    return Uniform(_coded(stream, scale, tuple(entries), "float32"), _coded(stream, zero_point, tuple(entries), "int32"))


def _coded(stream: Stream, array: npt.NDArray[Any], shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    work = np.zeros(shape, dtype) if stream.decoding else np.ascontiguousarray(array, dtype).reshape(shape)
    code_array(stream, work)
    return work


def to_symbols(tensor: Quantized) -> Symbols:
    """The levels as signed symbols that are small where values are small, and zero where they are masked.

    Levels on a trellis stay as they are.
    """
    if tensor.trellis:
        return tensor.levels
    if isinstance(tensor.decoding, Table):
        order, place = signed_ranks(tensor.decoding.values.view(np.uint32))
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32) - np.int32(place)
        symbols = ranks[tensor.levels] if len(order) else tensor.levels
    else:
        zero_point = tensor.decoding.zero_point
        symbols = tensor.levels - spread(zero_point, tensor.shape) if zero_point.any() else tensor.levels
    if tensor.mask is not None:
        symbols = np.where(tensor.mask, symbols + (symbols >= 0), 0)
    return np.ascontiguousarray(symbols, np.int32).reshape(tensor.shape)


def from_symbols(symbols: Symbols, decoding: Table | Uniform, dtype: str, masked: bool, trellis: int) -> Quantized:
    """The tensor that :func:`to_symbols` took apart, its levels in place of ``symbols``; levels under the mask are 0.

    Raises:
        CorruptArchive: a symbol points outside the table.
    """
    if trellis:
        return Quantized(symbols, decoding, None, dtype, trellis)
    mask = None
    if masked:
        mask = symbols != 0
        np.subtract(symbols, 1, out=symbols, where=symbols > 0)
    if isinstance(decoding, Table):
        order, place = signed_ranks(decoding.values.view(np.uint32))
        flat = symbols.reshape(-1)
        for start in range(0, flat.size, MOST):  # in pieces, so that memory stays bounded
            ranks = flat[start : start + MOST].astype(np.int64) + place
            if ranks.min() < 0 or ranks.max() >= len(order):
                raise CorruptArchive("a payload points outside its table of values: the file was altered")
            flat[start : start + MOST] = order[ranks]
    elif decoding.zero_point.any():
        symbols += spread(decoding.zero_point, symbols.shape)
    if mask is not None:
        symbols[~mask] = 0
    return Quantized(symbols, decoding, mask, dtype)
