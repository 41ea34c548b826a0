"""Convolutions and transposed convolutions, with every way that ONNX pads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known, largest_of

_CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def same_padding(
    lengths: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], auto_pad: str
) -> list[Any]:
    """How much SAME_UPPER or SAME_LOWER adds before and after each axis, as ONNX lists pads."""
    before, after = [], []
    for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        reach = (size - 1) * dilation + 1
        total = reach - 1 if stride == 1 else largest_of((-(-length // stride) - 1) * stride + reach - length, 0)
        small = total // 2
        first, last = (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)
        before.append(first)
        after.append(last)
    return before + after


def find_pads(
    x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], pads: list[int] | None, auto_pad: str
) -> list[Any]:
    """The pads before and after each axis, whichever way the node gives them."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        return same_padding(x.shape[2:], kernel, strides, dilations, auto_pad)
    return pads or [0] * (2 * len(kernel))


def symmetric(pads: list[Any]) -> list[int] | None:
    """One amount per axis, where each is padded alike at both ends, else None."""
    half = len(pads) // 2
    plain = all(type(amount) is int for amount in pads)
    return pads[:half] if plain and pads[:half] == pads[half:] else None


def pad_ends(x: Tensor, pads: list[Any], value: float = 0.0) -> Tensor:
    """``x`` padded before and after each spatial axis."""
    half = len(pads) // 2
    amounts = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    return F.pad(x, amounts, value=value)


@operator("Conv", ignores=("kernel_shape",))
def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Convolution over one, two or three axes: x [N, C, …], weight [M, C/group, …]."""
    axes = weight.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    amounts = find_pads(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    both_ends = symmetric(amounts)
    if both_ends is None:
        x, both_ends = pad_ends(x, amounts), [0] * axes
    return _CONVOLVE[axes](x, weight, bias, strides, both_ends, dilations, group)


@operator("ConvTranspose", ignores=("kernel_shape",))
def transposed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None,
    group: int = 1, output_padding: list[int] | None = None,
    output_shape: list[int] | None = None, pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Transposed convolution: x [N, C, …], weight [C, M/group, …]."""
    axes = weight.ndim - 2
    strides, dilations, extra = strides or [1] * axes, dilations or [1] * axes, output_padding or [0] * axes
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = output_shape[-axes:] if output_shape else [length * s for length, s in zip(x.shape[2:], strides, strict=True)]
        pads = _transposed_pads(x.shape[2:], wanted, weight.shape[2:], strides, dilations, extra, auto_pad)
    pads = pads or [0] * (2 * axes)
    both_ends = symmetric(pads)
    # torch wants its output padding smaller than the stride; the general case cuts the full result instead.
    if both_ends is not None and all(more < max(s, d) for more, s, d in zip(extra, strides, dilations, strict=True)):
        return _TRANSPOSED[axes](x, weight, bias, strides, both_ends, extra, group, dilations)
    full = _TRANSPOSED[axes](x, weight, bias, strides, 0, 0, group, dilations)
    cut = [-amount for amount in pads]
    cut[axes:] = [last + more for last, more in zip(cut[axes:], extra, strict=True)]
    if bias is None or all(amount <= 0 for amount in cut):
        return pad_ends(full, cut)
    grown = pad_ends(_TRANSPOSED[axes](x, weight, None, strides, 0, 0, group, dilations), cut)
    return grown + bias.reshape([-1, *[1] * axes])


def _transposed_pads(
    lengths: Sequence[Any], wanted: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
    extra: Sequence[int], auto_pad: str,
) -> list[Any]:  # fmt: skip
    before, after = [], []
    for length, target, size, stride, dilation, more in zip(lengths, wanted, kernel, strides, dilations, extra, strict=True):
        total = stride * (length - 1) + more + (size - 1) * dilation + 1 - target
        small = total // 2
        first, last = (small, total - small) if auto_pad == "SAME_UPPER" else (total - small, small)
        before.append(first)
        after.append(last)
    return before + after


@operator("CausalConvWithState")
def causal_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None, *, activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution [N, C, L] that looks back only; the state is the last positions, for the next call."""
    reach = weight.shape[-1] - 1
    padded = F.pad(x, (reach, 0)) if past is None else torch.cat([past, x], -1)
    result = F.conv1d(padded, weight, bias, groups=weight.shape[0])
    state = padded[..., padded.shape[-1] - reach :]
    return (result if activation == "none" else F.silu(result)), state


@operator("Col2Im")
def columns_to_image(
    x: Tensor, image_shape: Known, block_shape: Known, *, dilations: list[int] | None = None, pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Overlapping blocks [N, C*prod(block), L] summed into an image [N, C, …], of any number of axes."""
    image, block = image_shape.list(), block_shape.list()
    axes = len(image)
    strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * (2 * axes)
    batch, length = x.shape[0], 1
    for size in block:
        length *= size
    sizes = [image[i] + pads[i] + pads[i + axes] for i in range(axes)]
    position = torch.zeros((), dtype=torch.int64)
    for i in range(axes):
        starts = torch.arange(0, sizes[i] - (block[i] - 1) * dilations[i], strides[i])
        along = torch.arange(block[i]).unsqueeze(1) * dilations[i] + starts  # [block, count] of this axis
        shape = [1] * (2 * axes)
        shape[i], shape[i + axes] = along.shape
        position = position * sizes[i] + along.reshape(shape)
    flat = position.reshape(-1)
    total = 1
    for size in sizes:
        total *= size
    values = x.reshape([batch, x.shape[1] // length, -1])
    summed = torch.zeros([batch, values.shape[1], total], dtype=x.dtype).index_add(2, flat, values)
    return pad_ends(summed.reshape([batch, values.shape[1], *sizes]), [-amount for amount in pads])
