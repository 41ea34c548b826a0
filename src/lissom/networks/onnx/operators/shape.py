"""Operators that move elements without computing: reshape, transpose, concatenate, split, slice, pad, tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.operators.dtypes import STORED_ONLY
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known


@operator("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Known:
    """The lengths of the axes, as Python numbers."""
    return Known.of(list(x.shape)[start:end])


@operator("Size")
def size(x: Tensor) -> Known:
    """The number of elements."""
    return Known.of(x.numel())


@operator("Reshape", 5)
def reshape(x: Tensor, target: Known, *, allowzero: int = 0) -> Tensor:
    """Another shape; 0 copies the input's length (unless ``allowzero``), -1 takes what is left."""
    lengths = target.list()
    if not allowzero:
        lengths = [x.shape[i] if type(length) is int and length == 0 else length for i, length in enumerate(lengths)]
    return x.reshape(lengths)


@operator("Flatten")
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Two axes: all before ``axis``, and the rest."""
    first = axis % x.ndim if axis < 0 else axis
    if first == 1 and x.ndim >= 2:
        return torch.flatten(x, 1)
    rows = 1
    for length in x.shape[:first]:
        rows = rows * length
    return x.reshape([rows, -1]) if x.numel() else x.reshape([rows, x.numel() // max(rows, 1)])


@operator("Transpose")
def transpose(x: Tensor, *, perm: list[int] | None = None) -> Tensor:
    """Axes in another order; reversed by default."""
    return x.permute(perm if perm is not None else list(range(x.ndim))[::-1])


@operator("Squeeze", 13)
def squeeze(x: Tensor, axes: Known | None = None) -> Tensor:
    """Drop axes of length 1."""
    return x.squeeze() if axes is None else _squeezed(x, axes.list())


@operator("Squeeze", 1, 12)
def squeeze_by_attribute(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """Drop axes of length 1."""
    return x.squeeze() if axes is None else _squeezed(x, axes)


def _squeezed(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        if type(x.shape[axis]) is int and x.shape[axis] != 1:
            raise ValueError(f"Squeeze of axis {axis}, whose length is {x.shape[axis]} and not 1")
    # torch.squeeze leaves a symbolic axis in place under export; select names the axis that goes.
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.squeeze(axis) if type(x.shape[axis]) is int else x.select(axis, 0)
    return x


@operator("Unsqueeze", 13)
def unsqueeze(x: Tensor, axes: Known) -> Tensor:
    """New axes of length 1, counted in the result."""
    return _unsqueezed(x, axes.list())


@operator("Unsqueeze", 1, 12)
def unsqueeze_by_attribute(x: Tensor, *, axes: list[int]) -> Tensor:
    """New axes of length 1, counted in the result."""
    return _unsqueezed(x, axes)


def _unsqueezed(x: Tensor, axes: list[int]) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(*inputs: Tensor, axis: int) -> Tensor:
    """Inputs one after another along an axis."""
    return torch.cat(inputs, axis)


@operator("Split", 13)
def split(
    x: Tensor, lengths: Known | None = None, *, axis: int = 0, num_outputs: int | None = None, output_count: int
) -> tuple[Tensor, ...]:
    """Parts along an axis, of the lengths given, or all equal with a smaller last one."""
    if lengths is not None:
        return torch.split(x, lengths.list(), axis)
    count = num_outputs or output_count
    length = -(-x.shape[axis] // count)
    sizes = [length] * (count - 1)
    return torch.split(x, [*sizes, x.shape[axis] - sum(sizes)], axis)


@operator("Split", 1, 12)
def split_by_attribute(x: Tensor, *, axis: int = 0, split: list[int] | None = None, output_count: int) -> tuple[Tensor, ...]:
    """Parts along an axis, of the lengths given, or all equal."""
    return torch.split(x, split if split is not None else [x.shape[axis] // output_count] * output_count, axis)


@operator("Slice", 10)
def slice_(x: Tensor, starts: Known, ends: Known, axes: Known | None = None, steps: Known | None = None) -> Tensor:
    """Ranges of positions along axes, forwards or backwards."""
    chosen = list(range(len(starts.list()))) if axes is None else axes.list()
    by = [1] * len(chosen) if steps is None else steps.list()
    for start, end, axis, step in zip(starts.list(), ends.list(), chosen, by, strict=True):
        x = _sliced(x, start, end, axis % x.ndim, step)
    return x


@operator("Slice", 1, 9)
def slice_by_attributes(x: Tensor, *, starts: list[int], ends: list[int], axes: list[int] | None = None) -> Tensor:
    """Ranges of positions along axes."""
    for start, end, axis in zip(starts, ends, axes or range(len(starts)), strict=True):
        x = _sliced(x, start, end, axis % x.ndim, 1)
    return x


def _sliced(x: Tensor, start: Any, end: Any, axis: int, step: int) -> Tensor:
    if step > 0:
        index: list[Any] = [slice(None)] * axis + [slice(start, end, step)]
        return x[tuple(index)]
    length = x.shape[axis]
    first = min(start + length if start < 0 else start, length - 1)
    last = max(end + length if end < 0 else end, -1)  # the position before the last one taken
    return x.index_select(axis, torch.arange(max(first, -1), last, step)) if first > last else x.narrow(axis, 0, 0)


@operator("Expand")
def expand(x: Tensor, target: Known) -> Tensor:
    """Broadcast with a shape; a 1 in it keeps the input's own length."""
    lengths = target.list()
    missing = len(lengths) - x.ndim
    if missing < 0:
        lengths = [1] * -missing + lengths
    own = [1] * (len(lengths) - x.ndim) + list(x.shape)
    return x.expand([mine if type(asked) is int and asked == 1 else asked for mine, asked in zip(own, lengths, strict=True)])


@operator("Tile", 6)
def tile(x: Tensor, repeats: Known) -> Tensor:
    """The tensor repeated along each axis."""
    return x.repeat(repeats.list())


@operator("Pad", 11)
def pad(x: Tensor, pads: Known, value: Known | None = None, axes: Known | None = None, *, mode: str = "constant") -> Tensor:
    """More positions at the start and end of axes: a constant, mirrored, the edge's, or wrapped around."""
    amounts = pads.list()
    chosen = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes.list()]
    before: list[Any] = [0] * x.ndim
    after: list[Any] = [0] * x.ndim
    for position, axis in enumerate(chosen):
        before[axis], after[axis] = amounts[position], amounts[position + len(chosen)]
    return padded(x, before, after, mode, 0 if value is None else value.item())


@operator("Pad", 1, 10)
def pad_by_attributes(x: Tensor, *, pads: list[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """More positions at the start and end of every axis."""
    return padded(x, pads[: x.ndim], pads[x.ndim :], mode, value)


def padded(x: Tensor, before: list[Any], after: list[Any], mode: str, value: Any) -> Tensor:
    """``x`` with more (or, where negative, fewer) positions on each axis."""
    if mode == "constant":
        amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
        while len(amounts) >= 2 and all(type(amount) is int and amount == 0 for amount in amounts[-2:]):
            amounts = amounts[:-2]
        if x.dtype in STORED_ONLY or x.dtype == torch.bool:
            return F.pad(x.to(torch.int64), amounts, value=int(value)).to(x.dtype) if amounts else x
        return F.pad(x, amounts, value=value) if amounts else x
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        if not (type(left) is int and type(right) is int and left == right == 0):
            x = x.index_select(axis, _source_positions(x.shape[axis], left, right, mode))
    return x


def _source_positions(length: Any, left: Any, right: Any, mode: str) -> Tensor:
    positions = torch.arange(-left, length + right)
    if mode == "edge":
        return positions.clamp(0, length - 1)
    if mode == "wrap":
        return positions.remainder(length)
    period = 2 * (length - 1) if length > 1 else 1  # reflect: 0 1 2 1 0 1 …
    folded = positions.remainder(period)
    return torch.where(folded < length, folded, period - folded)


@operator("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Channels [N, C*b*b, H, W] become squares of b by b pixels [N, C, H*b, W*b]."""
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape([n, blocksize, blocksize, c // blocksize**2, h, w])
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape([n, c // blocksize**2, h * blocksize, w * blocksize])


@operator("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Squares of b by b pixels [N, C, H, W] become channels [N, C*b*b, H/b, W/b]."""
    n, c, h, w = x.shape
    blocks = x.reshape([n, c, h // blocksize, blocksize, w // blocksize, blocksize])
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape([n, c * blocksize**2, h // blocksize, w // blocksize])


@operator("ReverseSequence")
def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Each sequence reversed up to its own length; what comes after stays."""
    times = x.movedim((time_axis, batch_axis), (0, 1))
    steps = torch.arange(times.shape[0]).unsqueeze(1)
    positions = torch.where(steps < lengths, lengths - 1 - steps, steps)
    index = positions.reshape([*positions.shape, *[1] * (x.ndim - 2)]).expand_as(times)
    return times.gather(0, index).movedim((0, 1), (time_axis, batch_axis))


@operator("Trilu")
def triangle(x: Tensor, k: Known | None = None, *, upper: int = 1) -> Tensor:
    """The upper or lower triangle of each matrix, zeros elsewhere."""
    diagonal = 0 if k is None else k.item()
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)
