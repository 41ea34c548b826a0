"""Pools: largest, mean and p-norm of windows, and of everything."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.operators.convolution import find_pads, pad_ends, symmetric
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known, largest_of

_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _window_pads(
    x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], pads: list[int] | None, auto_pad: str, ceil_mode: int
) -> tuple[list[Any], list[Any]]:
    """The pads of the node, and those with what a last, partial window reaches beyond the end."""
    given = find_pads(x, kernel, strides, dilations, pads, auto_pad)
    if not ceil_mode:
        return given, given
    axes = len(kernel)
    reached = list(given)
    for i, length in enumerate(x.shape[2:]):
        reach = (kernel[i] - 1) * dilations[i] + 1
        padded = length + given[i] + given[i + axes]
        count = -(-(padded - reach) // strides[i]) + 1
        if (count - 1) * strides[i] >= length + given[i]:  # a window that starts in the padding does not count
            count -= 1
        reached[i + axes] = largest_of((count - 1) * strides[i] + reach - length - given[i], given[i + axes])
    return given, reached


@operator("MaxPool")
def max_pool(
    x: Tensor, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: list[int] | None = None,
    pads: list[int] | None = None, storage_order: int = 0, strides: list[int] | None = None, output_count: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """Largest element of each window; with a second output, its position in the flat input."""
    axes = len(kernel_shape)
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    _, reached = _window_pads(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    if output_count == 2:
        return _max_pool_with_positions(x, kernel_shape, strides, dilations, reached, storage_order)
    if not x.is_floating_point():  # torch pools integers of few types; float64 holds all that 8 to 32 bits hold
        return max_pool(
            x.to(torch.float64), kernel_shape=kernel_shape, pads=reached, strides=strides, dilations=dilations
        ).to(x.dtype)  # type: ignore[union-attr]  # fmt: skip
    both_ends = symmetric(reached)
    if both_ends is None or any(2 * amount > size for amount, size in zip(both_ends, kernel_shape, strict=True)):
        x, both_ends = pad_ends(x, reached, -math.inf), [0] * axes
    result: Tensor = _MAX_POOL[axes](x, kernel_shape, strides, both_ends, dilations)
    return result


def _max_pool_with_positions(
    x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], pads: list[Any], storage_order: int
) -> tuple[Tensor, Tensor]:
    axes = len(kernel)
    padded = pad_ends(x.to(torch.float64), pads, -math.inf)
    values, position = _MAX_POOL[axes](padded, kernel, strides, 0, dilations, return_indices=True)
    coordinates: list[Tensor] = []
    for axis in reversed(range(axes)):
        length = padded.shape[2 + axis]
        coordinates.insert(0, position % length - pads[axis])
        position = position // length
    image = torch.arange(x.shape[0] * x.shape[1]).reshape([*x.shape[:2], *[1] * axes])
    order = range(axes) if storage_order == 0 else reversed(range(axes))
    flat = torch.zeros((), dtype=torch.int64)
    for axis in order:
        flat = flat * x.shape[2 + axis] + coordinates[axis]
    return values.to(x.dtype), image * math.prod(x.shape[2:]) + flat


@operator("AveragePool")
def average_pool(
    x: Tensor, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
    dilations: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Mean of each window; padding counts only where ``count_include_pad`` says so."""
    axes = len(kernel_shape)
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    given, reached = _window_pads(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    both_ends = symmetric(reached)
    simple = both_ends is not None and all(d == 1 for d in dilations) and given == reached
    if simple and all(2 * amount <= size for amount, size in zip(both_ends or [], kernel_shape, strict=True)):
        return _AVERAGE_POOL[axes](x, kernel_shape, strides, both_ends, False, bool(count_include_pad))
    if all(d == 1 for d in dilations) and all(type(amount) is int and amount == 0 for amount in reached):
        return _AVERAGE_POOL[axes](x, kernel_shape, strides)
    total = _window_sum(pad_ends(x, reached), kernel_shape, strides, dilations)
    ones = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    counted = pad_ends(ones, given, 1.0) if count_include_pad else pad_ends(ones, given)
    beyond = [more - own for more, own in zip(reached, given, strict=True)]
    return total / _window_sum(pad_ends(counted, beyond), kernel_shape, strides, dilations)


def _window_sum(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    """Sum of each window, by adding the shifted inputs."""
    counts = [(x.shape[2 + i] - (size - 1) * dilations[i] - 1) // strides[i] + 1 for i, size in enumerate(kernel)]
    total: Tensor | None = None
    for offsets in product(*(range(size) for size in kernel)):
        index: list[Any] = [slice(None), slice(None)]
        for i, offset in enumerate(offsets):
            start = offset * dilations[i]
            index.append(slice(start, start + (counts[i] - 1) * strides[i] + 1, strides[i]))
        part = x[tuple(index)]
        total = part if total is None else total + part
    assert total is not None  # a kernel has at least one element
    return total


@operator("LpPool")
def lp_pool(
    x: Tensor, *, kernel_shape: list[int], auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: list[int] | None = None,
    p: int = 2, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """p-norm of each window."""
    axes = len(kernel_shape)
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    _, reached = _window_pads(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    total = _window_sum(pad_ends(x.abs() ** p, reached), kernel_shape, strides, dilations)
    return total ** (1 / p)


@operator("GlobalAveragePool")
def global_average_pool(x: Tensor) -> Tensor:
    """Mean over all spatial axes, which stay with length 1."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(x: Tensor) -> Tensor:
    """Largest over all spatial axes, which stay with length 1."""
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """p-norm over all spatial axes, which stay with length 1."""
    return (x.abs() ** p).sum(list(range(2, x.ndim)), keepdim=True) ** (1 / p)


@operator("MaxUnpool")
def max_unpool(
    x: Tensor, positions: Tensor, output_shape: Known | None = None, *, kernel_shape: list[int], pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Elements put back where MaxPool took them from, zeros elsewhere."""
    axes = len(kernel_shape)
    strides, pads = strides or [1] * axes, pads or [0] * (2 * axes)
    own = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[i + axes] + kernel_shape[i] for i in range(axes)]
    target = [*x.shape[:2], *own] if output_shape is None else output_shape.list()
    # Positions count in the shape that was pooled; a larger output shape only adds zeros after each axis.
    flat = torch.zeros(math.prod([*x.shape[:2], *own]), dtype=x.dtype).scatter(0, positions.reshape(-1), x.reshape(-1))
    pooled = flat.reshape([*x.shape[:2], *own])
    return pad_ends(pooled, [0] * axes + [wanted - length for wanted, length in zip(target[2:], own, strict=True)])
