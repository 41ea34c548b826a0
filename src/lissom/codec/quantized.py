"""Quantized tensors in a payload: one array of signed symbols, beside the table or the scales that decode them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.arrays import code_array, signed_ranks
from lissom.codec.stream import Stream
from lissom.codec.tensors import Quantized, Table, Uniform, spread
from lissom.errors import CorruptArchive, InputRefused

__all__ = ["checked", "code_decoding", "from_symbols", "to_symbols"]

Symbols = npt.NDArray[np.int32]
ENTRIES, LENGTH = 8, 9  # whose statistics a number follows
MOST = 1 << 16


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
    if tensor.trellis and (zero_point.any() or tensor.mask is not None):
        raise InputRefused(f"{name}: levels on a trellis take neither a zero point nor a mask")
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

    Raises:
        InputRefused: levels that claim to follow the trellis, and leave it.
    """
    if tensor.trellis:
        from lissom.codec import trellis

        indices = np.empty(tensor.shape, np.int32)
        if not trellis.to_indices(np.ascontiguousarray(tensor.levels).reshape(-1), indices.reshape(-1)):
            raise InputRefused("the levels leave the trellis that they claim to follow: give trellis=False")
        return indices
    if isinstance(tensor.decoding, Table):
        order, place = signed_ranks(tensor.decoding.values.view(np.uint32))
        ranks = np.empty(len(order), np.int32)
        ranks[order] = np.arange(len(order), dtype=np.int32) - np.int32(place)
        symbols = ranks[tensor.levels] if len(order) else tensor.levels
    else:
        symbols = tensor.levels - spread(tensor.decoding.zero_point, tensor.shape)
    if tensor.mask is not None:
        symbols = np.where(tensor.mask, symbols + (symbols >= 0), 0)
    return np.ascontiguousarray(symbols, np.int32).reshape(tensor.shape)


def from_symbols(symbols: Symbols, decoding: Table | Uniform, dtype: str, form: str) -> Quantized:
    """The tensor that :func:`to_symbols` took apart; levels under the mask are 0.

    Raises:
        CorruptArchive: a symbol points outside the table.
    """
    if form == "trellis":
        from lissom.codec import trellis

        levels = np.empty(symbols.shape, np.int32)
        trellis.from_indices(np.ascontiguousarray(symbols).reshape(-1), levels.reshape(-1))
        return Quantized(levels, decoding, None, dtype, trellis=True)
    mask = symbols != 0 if form == "masked" else None
    if mask is not None:
        symbols = symbols - (symbols > 0)
    if isinstance(decoding, Table):
        order, place = signed_ranks(decoding.values.view(np.uint32))
        ranks = symbols.astype(np.int64) + place
        if symbols.size and (ranks.min() < 0 or ranks.max() >= len(order)):
            raise CorruptArchive("a payload points outside its table of values: the file was altered")
        levels = order.astype(np.int32)[ranks] if symbols.size else symbols
    else:
        levels = symbols + spread(decoding.zero_point, symbols.shape)
    if mask is not None:
        levels = np.where(mask, levels, 0)
    return Quantized(np.ascontiguousarray(levels, np.int32).reshape(symbols.shape), decoding, mask, dtype)
