"""Elementwise arithmetic: sums to powers, trigonometry, rounding, bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from lissom.networks.onnx.operators.dtypes import DTYPES, computed_as_int64
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh, "Det": torch.det, "Erf": torch.erf,
    "Exp": torch.exp, "Floor": torch.floor, "Log": torch.log, "Reciprocal": torch.reciprocal, "Round": torch.round,
    "Sin": torch.sin, "Sinh": torch.sinh, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh, "IsNaN": torch.isnan,
    "Not": torch.logical_not, "BitwiseNot": computed_as_int64(torch.bitwise_not), "Neg": torch.neg,
    "Sign": computed_as_int64(torch.sign), "Abs": computed_as_int64(torch.abs),
}  # fmt: skip

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of one tensor, with a signature that the table can read (torch's own have none)."""

    def compute(x: Tensor) -> Tensor:
        return function(x)

    return compute


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    @computed_as_int64
    def compute(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return compute


for _name, _function in _UNARY.items():
    operator(_name)(unary(_function))
for _name, _pair in _BINARY.items():
    operator(_name)(_binary(_pair))


@operator("Identity")
def identity(x: Tensor) -> Tensor:
    """The input as it is."""
    return x


@operator("OptionalGetElement")
def optional_element(x: Tensor) -> Tensor:
    """What the optional value holds: a tensor always holds itself."""
    return x


@operator("OptionalHasElement")
def optional_has_element(x: Tensor | None = None) -> Tensor:
    """Whether there is a value."""
    return torch.tensor(x is not None)


@operator("Div")
@computed_as_int64
def divide(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; of integers, towards zero."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Mod")
@computed_as_int64
def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the divisor's sign, or with the dividend's where ``fmod`` is 1."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


@operator("Pow")
def power(base: Tensor, exponent: Tensor) -> Tensor:
    """``base ** exponent`` in the base's type."""
    if base.is_floating_point() or not exponent.is_floating_point():
        return torch.pow(base, exponent.to(base.dtype))
    return torch.pow(base.to(exponent.dtype), exponent).to(base.dtype)


@operator("Sum")
def total(*inputs: Tensor) -> Tensor:
    """Sum of any number of inputs, broadcast."""
    return reduce(torch.add, inputs)


@operator("Mean")
def mean(*inputs: Tensor) -> Tensor:
    """Mean of any number of inputs, broadcast."""
    return reduce(torch.add, inputs) / len(inputs)


@operator("Max")
def largest(*inputs: Tensor) -> Tensor:
    """Largest of any number of inputs, broadcast."""
    return reduce(computed_as_int64(torch.maximum), inputs)


@operator("Min")
def smallest(*inputs: Tensor) -> Tensor:
    """Smallest of any number of inputs, broadcast."""
    return reduce(computed_as_int64(torch.minimum), inputs)


@operator("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Shift of unsigned integers; bits that leave the type are lost."""
    bits = 8 * a.element_size()
    wide, by = a.to(torch.int64), b.to(torch.int64)
    if direction == "LEFT":
        shifted = wide << by
    else:  # int64's shift to the right copies the sign bit, which is data in uint64
        shifted = (wide >> by) & ~(torch.full_like(wide, -1) << (bits - by)) if bits == 64 else wide >> by
        shifted = torch.where(by == 0, wide, shifted)
    return shifted.to(a.dtype)


@operator("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """True where infinite, of the signs asked for."""
    found = torch.zeros_like(x, dtype=torch.bool)
    if detect_positive:
        found = found | torch.isposinf(x)
    return found | torch.isneginf(x) if detect_negative else found


@operator("Cast", ignores=("saturate", "round_mode"))
def cast(x: Tensor, *, to: int) -> Tensor:
    """Another element type; the ignored attributes concern 8-bit floats, which are not among the reader's types."""
    return x.to(DTYPES[to])


@operator("CastLike", ignores=("saturate", "round_mode"))
def cast_like(x: Tensor, like: Tensor) -> Tensor:
    """The element type of another tensor."""
    return x.to(like.dtype)


@operator("BitCast")
def bit_cast(x: Tensor, *, to: int) -> Tensor:
    """The same bits read as another element type of the same width."""
    return x.view(DTYPES[to])


@operator("CumSum")
def cumulative_sum(x: Tensor, axis: Known, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis."""
    return _cumulative(torch.cumsum, x, axis, exclusive, reverse, 0)


@operator("CumProd")
def cumulative_product(x: Tensor, axis: Known, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running product along an axis."""
    return _cumulative(torch.cumprod, x, axis, exclusive, reverse, 1)


def _cumulative(function: Callable[..., Tensor], x: Tensor, axis: Known, exclusive: int, reverse: int, start: int) -> Tensor:
    dim = int(axis.item())
    values = x.flip(dim) if reverse else x
    if exclusive:
        first = torch.full_like(values.narrow(dim, 0, 1), start)
        values = torch.cat([first, values.narrow(dim, 0, values.shape[dim] - 1)], dim)
    result = function(values, dim, dtype=x.dtype)
    return result.flip(dim) if reverse else result
