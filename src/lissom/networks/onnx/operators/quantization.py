"""Quantized operators: QuantizeLinear and DequantizeLinear, dynamic ranges, integer products.

Rounding is half to even and integers saturate. Where a QuantizeLinear's levels only meet a DequantizeLinear, the
reader keeps them as floats and lets the gradient straight through the rounding (Bengio et al., 2013, arXiv:1308.3432),
to the input and to the scale alike, as learned step sizes need (Esser et al., 2020, arXiv:1902.08153).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.networks.onnx.operators.convolution import convolution
from lissom.networks.onnx.operators.dtypes import DTYPES, NARROW
from lissom.networks.onnx.table import operator


class _Quantized(torch.autograd.Function):
    """Levels as floats; the gradient is that of ``x / scale`` where they do not saturate, and one pass each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor | float, lowest: int, highest: int) -> Tensor:
        scaled = x / scale
        levels = scaled.round().add_(zero_point)
        ctx.save_for_backward(scaled, scale, (levels >= lowest) & (levels <= highest))
        return levels.clamp_(lowest, highest)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        scaled, scale, inside = ctx.saved_tensors
        gradient = (gradients[0] * inside).div_(scale)
        return gradient, -(gradient * scaled).sum_to_size(scale.shape) if ctx.needs_input_grad[1] else None, None, None, None


def _learned(scale: Tensor, x: Tensor) -> Tensor:
    """The scale, its gradient divided by the root of how many values of a sample share it.

    They all add to it, and it would move far more at a step than a weight does (Esser et al., section 2.2).
    """
    if not (scale.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_exporting():
        return scale
    shared = max(x[0].numel() / scale.numel() if x.ndim > 1 else x.numel(), 1.0)
    return scale.detach() + (scale - scale.detach()) / math.sqrt(shared)


def _along(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point shaped to broadcast with ``x``: per tensor, per slice of an axis, or per block of it."""
    if parameter.numel() == 1 and parameter.ndim <= 1:
        return parameter.reshape([])
    dim = axis % x.ndim
    if block_size:
        return parameter.repeat_interleave(block_size, dim).narrow(dim, 0, x.shape[dim])
    return parameter.reshape([-1, *[1] * (x.ndim - dim - 1)])


@operator("QuantizeLinear", ignores=("saturate",))
def quantize_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0,
    precision: int = 0, straight_through: bool = False,
) -> Tensor:  # fmt: skip
    """``saturate(round(x / scale) + zero_point)``; levels stay floats where ``straight_through``."""
    dtype = zero_point.dtype if zero_point is not None else DTYPES.get(output_dtype, torch.uint8)
    lowest, highest = NARROW.get(output_dtype, (torch.iinfo(dtype).min, torch.iinfo(dtype).max))
    scale = _learned(scale, x) if straight_through else scale
    kind = DTYPES[precision] if precision else x.dtype if x.is_floating_point() else scale.dtype
    step = _along(scale, x, axis, block_size).to(kind)
    zero = None if zero_point is None else _along(zero_point, x, axis, block_size).to(kind)
    if straight_through and torch.is_grad_enabled() and not torch.compiler.is_exporting():
        learned: Tensor = _Quantized.apply(x.to(kind), step, 0.0 if zero is None else zero, lowest, highest)  # type: ignore[no-untyped-call]
        return learned
    levels = torch.round(x.to(kind) / step)
    clamped = (levels if zero is None else levels + zero).clamp(lowest, highest)
    return clamped if straight_through else clamped.to(torch.int32).to(dtype)


@operator("DequantizeLinear")
def dequantize_linear(
    x: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    """``(x - zero_point) * scale``."""
    factor = _along(_learned(scale, x) if x.is_floating_point() else scale, x, axis, block_size)
    levels = x.to(factor.dtype)
    if zero_point is not None:
        levels = levels - _along(zero_point, x, axis, block_size).to(factor.dtype)
    result = levels * factor
    return result.to(DTYPES[output_dtype]) if output_dtype else result


@operator("DynamicQuantizeLinear")
def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 levels, scale and zero point, from the tensor's own range widened to hold zero."""
    low, high = torch.clamp(x.amin(), max=0), torch.clamp(x.amax(), min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = torch.round(torch.clamp(-low / safe, 0, 255)).to(torch.uint8)
    return quantize_linear(x, safe, zero_point), scale, zero_point


def _centred(x: Tensor, zero_point: Tensor | None, last: bool) -> Tensor:
    """Levels less their zero point, in float64, which adds up integers of 32 bits exactly."""
    wide = x.to(torch.float64)
    if zero_point is None:
        return wide
    if zero_point.numel() == 1 or zero_point.ndim >= 2:
        return wide - (zero_point.reshape([]) if zero_point.numel() == 1 else zero_point).to(torch.float64)
    return wide - (zero_point if last else zero_point.unsqueeze(-1)).to(torch.float64)


@operator("MatMulInteger")
def matmul_integer(a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None) -> Tensor:
    """Exact product of integer matrices in int32."""
    return torch.matmul(_centred(a, a_zero_point, False), _centred(b, b_zero_point, True)).to(torch.int32)


@operator("MatMulNBits", domain="com.microsoft", ignores=("accuracy_level", "k"))
def matmul_of_blocks(
    a: Tensor, b: Tensor, scales: Tensor, zero_points: Tensor | None = None, g_idx: Tensor | None = None,
    bias: Tensor | None = None, *, n: int, bits: int = 4, block_size: int = 32,
) -> Tensor:  # fmt: skip
    """Product with levels of 4 bits, two to a byte, that have a scale for each block of inputs; their zero is 8."""
    if bits != 4 or zero_points is not None or g_idx is not None:
        raise ModelRefused("MatMulNBits is read with 4 bits and no zero points or order of inputs of its own")
    levels = torch.stack([b & 15, b >> 4], -1).reshape(n, -1, block_size).to(scales.dtype) - 8
    weight = (levels * scales.reshape(n, -1, 1)).reshape(n, -1)[:, : a.shape[-1]]
    return torch.nn.functional.linear(a, weight, bias)


@operator("QLinearMatMul")
def quantized_matmul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, y_scale: Tensor, y_zero: Tensor
) -> Tensor:
    """Product of quantized matrices, quantized."""
    product = torch.matmul(_centred(a, a_zero, False), _centred(b, b_zero, True))
    left = a_scale.unsqueeze(-1) if a_scale.ndim == 1 and a_scale.numel() > 1 else a_scale
    return _requantized(product * left.to(torch.float64) * b_scale.to(torch.float64), y_scale, y_zero)


@operator("ConvInteger", ignores=("kernel_shape",))
def convolution_integer(
    x: Tensor, weight: Tensor, x_zero: Tensor | None = None, weight_zero: Tensor | None = None, *, auto_pad: str = "NOTSET",
    dilations: list[int] | None = None, group: int = 1, pads: list[int] | None = None,
    strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Exact convolution of integers in int32."""
    return convolution(
        _centred(x, x_zero, True), _centred_weight(weight, weight_zero), auto_pad=auto_pad, dilations=dilations, group=group,
        pads=pads, strides=strides,
    ).to(torch.int32)  # fmt: skip


@operator("QLinearConv", ignores=("kernel_shape",))
def quantized_convolution(
    x: Tensor, x_scale: Tensor, x_zero: Tensor, weight: Tensor, weight_scale: Tensor, weight_zero: Tensor, y_scale: Tensor,
    y_zero: Tensor, bias: Tensor | None = None, *, auto_pad: str = "NOTSET", dilations: list[int] | None = None, group: int = 1,
    pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Convolution of quantized tensors, quantized; the bias is int32 in steps of ``x_scale * weight_scale``."""
    total = convolution(
        _centred(x, x_zero, True), _centred_weight(weight, weight_zero), None if bias is None else bias.to(torch.float64),
        auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides,
    )  # fmt: skip
    step = x_scale.to(torch.float64) * weight_scale.to(torch.float64)
    return _requantized(total * step.reshape([-1, *[1] * (x.ndim - 2)]), y_scale, y_zero)


def _centred_weight(weight: Tensor, zero_point: Tensor | None) -> Tensor:
    if zero_point is None:
        return weight.to(torch.float64)
    return weight.to(torch.float64) - zero_point.to(torch.float64).reshape([-1, *[1] * (weight.ndim - 1)])


def _requantized(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return quantize_linear(x, scale.to(torch.float64), zero_point)
