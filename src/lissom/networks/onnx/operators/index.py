"""Operators that look elements up, or put them, by position: the Gather and Scatter families, one-hot, selection."""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known, Value


@operator("Gather")
def gather(x: Tensor, positions: Value, *, axis: int = 0) -> Tensor:
    """Whole slices at positions along an axis; negative ones count from the end."""
    if isinstance(positions, Known):
        if positions.array.ndim == 0:
            return x.select(axis, positions.item())
        positions = positions.tensor()
    index = _from_start(positions, x.shape[axis])
    if index.ndim == 1:
        return x.index_select(axis, index)
    picked = x.index_select(axis, index.reshape(-1))
    first = axis % x.ndim
    return picked.reshape([*x.shape[:first], *index.shape, *x.shape[first + 1 :]])


def _from_start(positions: Tensor, length: int) -> Tensor:
    index = positions.to(torch.int64)
    return torch.where(index < 0, index + length, index)


@operator("GatherElements")
def gather_elements(x: Tensor, positions: Tensor, *, axis: int = 0) -> Tensor:
    """Single elements at positions along an axis."""
    return torch.gather(x, axis, _from_start(positions, x.shape[axis]))


@operator("GatherND")
def gather_nd(x: Tensor, positions: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices at tuples of positions, the same batch axes in both."""
    tuples = positions.to(torch.int64).unbind(-1)
    own = [
        torch.arange(x.shape[axis]).reshape([-1, *[1] * (positions.ndim - 2 - axis)]) for axis in range(batch_dims)
    ]  # the position of each batch axis itself, shaped to broadcast with the tuples
    return x[(*own, *tuples)]


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements")
@operator("Scatter")
def scatter_elements(x: Tensor, positions: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """A copy with single elements replaced, or combined, along an axis."""
    index = _from_start(positions, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCE[reduction])


@operator("ScatterND")
def scatter_nd(x: Tensor, positions: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """A copy with slices at tuples of positions replaced or combined."""
    depth = positions.shape[-1]
    tuples = positions.to(torch.int64).unbind(-1)
    if reduction in ("none", "add"):
        return torch.index_put(x, tuples, updates, accumulate=reduction == "add")
    rows = torch.zeros((), dtype=torch.int64)
    for axis, index in enumerate(tuples):
        rows = rows * x.shape[axis] + _from_start(index, x.shape[axis])
    flat = x.reshape([-1, *x.shape[depth:]])
    source = updates.reshape([-1, *x.shape[depth:]])
    index = rows.reshape([-1, *[1] * (source.ndim - 1)]).expand_as(source)
    return flat.scatter_reduce(0, index, source, _REDUCE[reduction]).reshape(x.shape)


@operator("TensorScatter")
def tensor_scatter(cache: Tensor, update: Tensor, start: Tensor | None = None, *, axis: int = -2, mode: str = "linear") -> Tensor:
    """A copy of a cache [batch, …] with a run of positions replaced, from each sample's own start."""
    dim = axis % cache.ndim
    batch, run, length = cache.shape[0], update.shape[dim], cache.shape[dim]
    first = torch.zeros(batch, dtype=torch.int64) if start is None else start.to(torch.int64)
    positions = first.unsqueeze(1) + torch.arange(run)
    if mode == "circular":
        positions = positions.remainder(length)
    index = positions.reshape([batch, *[1] * (dim - 1), run, *[1] * (cache.ndim - dim - 1)]).expand_as(update)
    return cache.scatter(dim, index, update)


@operator("OneHot")
def one_hot(positions: Tensor, depth: Known, values: Tensor, *, axis: int = -1) -> Tensor:
    """The "on" value at each position of a new axis, the "off" value elsewhere."""
    count = int(depth.item())
    index = positions.to(torch.int64)
    dim = axis % (index.ndim + 1)
    classes = torch.arange(count).reshape([count, *[1] * (index.ndim - dim)])
    hot = _from_start(index, count).unsqueeze(dim) == classes
    return torch.where(hot, values[1], values[0])


@operator("NonZero")
def non_zero(x: Tensor) -> Tensor:
    """The positions of elements that are not zero, [rank, count]."""
    return torch.nonzero(x).T


@operator("Compress")
def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """The slices (or, without an axis, elements) where the condition holds."""
    values = x.reshape(-1) if axis is None else x
    return values.index_select(axis or 0, torch.nonzero(condition).squeeze(1))


@operator("Unique")
def unique(x: Tensor, *, axis: int | None = None, sorted: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: A002
    """Distinct elements or slices, where each first stands, which each input is, and how many there are of each."""
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    flat = inverse.reshape(-1)
    order = torch.arange(flat.numel())
    first = torch.full_like(counts, flat.numel()).scatter_reduce(0, flat, order, "amin")
    if not sorted:  # in the order of appearance
        ranked = torch.argsort(first)
        values = values.index_select(axis or 0, ranked)
        first, counts = first[ranked], counts[ranked]
        flat = torch.argsort(ranked)[flat]
    return values, first, flat, counts
