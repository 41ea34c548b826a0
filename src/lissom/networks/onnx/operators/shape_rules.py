"""How operators compute with shapes: numbers known without data stay Python numbers, symbolic ones included."""

from __future__ import annotations

import math
import operator as arithmetic
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch

from lissom.networks.onnx.operators.dtypes import DTYPES
from lissom.networks.onnx.table import shape_rule
from lissom.networks.onnx.values import LARGEST_KNOWN, Known


def _quotient(a: Any, b: Any) -> Any:
    if isinstance(a, (float, torch.SymFloat)) or isinstance(b, (float, torch.SymFloat)):
        return a / b
    # ONNX rounds towards zero. Lengths are never negative; torch cannot tell the sign of every symbolic number.
    return -(-a // b) if type(a) is int and type(b) is int and (a < 0) != (b < 0) else a // b


def _as_float(value: Any) -> Any:
    return torch.sym_float(value)  # type: ignore[no-untyped-call]


def _plain(value: Any) -> bool:
    return not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))


_BINARY: dict[str, tuple[Callable[[Any, Any], Any], bool]] = {
    "Add": (arithmetic.add, False), "Sub": (arithmetic.sub, False), "Mul": (arithmetic.mul, False), "Div": (_quotient, False),
    "Max": (torch.sym_max, False), "Min": (torch.sym_min, False), "Equal": (arithmetic.eq, True),
    "Greater": (arithmetic.gt, True), "GreaterOrEqual": (arithmetic.ge, True), "Less": (arithmetic.lt, True),
    "LessOrEqual": (arithmetic.le, True), "And": (arithmetic.and_, True), "Or": (arithmetic.or_, True),
}  # fmt: skip
"""The function on two numbers, and whether it answers with a truth value."""


def _elementwise(function: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Known]:
    def compute(*inputs: Known) -> Known:
        arrays = np.broadcast_arrays(*(known.array for known in inputs))
        result = np.empty(arrays[0].shape, dtype=object)
        for position, values in enumerate(zip(*(array.ravel() for array in arrays), strict=True)):
            result.reshape(-1)[position] = reduce(function, values)
        return Known(result, dtype or inputs[0].dtype)

    return compute


def _register() -> None:
    for name, (function, is_truth) in _BINARY.items():
        shape_rule(name)(_elementwise(function, torch.bool if is_truth else None))


_register()


def _mapped(function: Callable[[Any], Any], x: Known, dtype: torch.dtype | None = None) -> Known:
    result = np.empty(x.array.size, dtype=object)
    result[:] = [function(value) for value in x.list()]
    return Known(result.reshape(x.array.shape), dtype or x.dtype)


@shape_rule("Neg")
def negative(x: Known) -> Known:
    """The other sign."""
    return _mapped(arithmetic.neg, x)


@shape_rule("Not")
def logical_not(x: Known) -> Known:
    """The other truth value."""
    return _mapped(torch.sym_not, x)


@shape_rule("Floor")
def floor(x: Known) -> Known:
    """Rounded down, still a float."""
    return _mapped(lambda value: _as_float(math.floor(value)), x)


@shape_rule("Ceil")
def ceil(x: Known) -> Known:
    """Rounded up, still a float."""
    return _mapped(lambda value: _as_float(math.ceil(value)), x)


@shape_rule("Cast")
def cast(x: Known, *, to: int) -> Known | None:
    """Another element type."""
    dtype = DTYPES.get(to)
    if dtype is None:
        return None
    if dtype == torch.bool:
        return _mapped(lambda value: value != 0, x, dtype)
    return _mapped(torch.sym_float if dtype.is_floating_point else torch.sym_int, x, dtype)


@shape_rule("Identity")
def identity(x: Known) -> Known:
    """The input as it is."""
    return x


@shape_rule("Shape")
def shape(x: Known, *, start: int = 0, end: int | None = None) -> Known:
    """The lengths of the axes."""
    return Known.of(list(x.array.shape)[start:end])


@shape_rule("Size")
def size(x: Known) -> Known:
    """The number of elements."""
    return Known.of(x.array.size)


@shape_rule("Gather")
def gather(x: Known, positions: Known, *, axis: int = 0) -> Known:
    """Entries at positions."""
    return Known(np.asarray(np.take(x.array, positions.array.astype(np.int64), axis), dtype=object), x.dtype)


@shape_rule("Concat")
def concat(*inputs: Known, axis: int) -> Known:
    """Inputs one after another."""
    return Known(np.concatenate([known.array for known in inputs], axis), inputs[0].dtype)


@shape_rule("Slice")
def slice_(
    x: Known, starts: Known | None = None, ends: Known | None = None, axes: Known | None = None, steps: Known | None = None, /,
    **attributes: list[int],
) -> Known | None:  # fmt: skip
    """Ranges of positions along axes."""
    first = attributes["starts"] if starts is None else starts.list()
    last = attributes["ends"] if ends is None else ends.list()
    by = [1] * len(first) if steps is None else steps.list()
    chosen = attributes.get("axes", list(range(len(first)))) if axes is None else axes.list()
    if not all(map(_plain, [*first, *last])):
        return None
    index: list[Any] = [slice(None)] * x.array.ndim
    for start, end, axis, step in zip(first, last, chosen, by, strict=True):
        # ONNX clamps an end far below zero to "before the first", which a Python slice writes as None.
        index[axis] = slice(start, None if step < 0 and end < -x.array.shape[axis] else end, step)
    return Known(x.array[tuple(index)], x.dtype)


@shape_rule("Unsqueeze")
def unsqueeze(x: Known, axes: Known | None = None, /, **attributes: list[int]) -> Known:
    """New axes of length 1."""
    chosen = attributes["axes"] if axes is None else axes.list()
    return Known(np.expand_dims(x.array, tuple(chosen)), x.dtype)


@shape_rule("Squeeze")
def squeeze(x: Known, axes: Known | None = None, /, **attributes: list[int]) -> Known:
    """Axes of length 1 dropped."""
    chosen = attributes.get("axes") if axes is None else axes.list()
    return Known(np.squeeze(x.array, None if chosen is None else tuple(chosen)), x.dtype)


@shape_rule("Reshape")
def reshape(x: Known, target: Known, **_: int) -> Known | None:
    """Another shape of the same numbers."""
    lengths = target.list()
    return Known(x.array.reshape(lengths), x.dtype) if all(map(_plain, lengths)) and 0 not in lengths else None


@shape_rule("Transpose")
def transpose(x: Known, *, perm: list[int] | None = None) -> Known:
    """Axes in another order; exporters turn the ends of a Pad around with it."""
    return Known(x.array.transpose(perm), x.dtype)


@shape_rule("Where")
def where(condition: Known, a: Known, b: Known) -> Known:
    """One number or the other."""
    # A comparison with a symbolic length is decided here, for good: torch guards what it decided.
    chosen = np.vectorize(bool, otypes=[bool])(condition.array) if condition.array.size else condition.array.astype(bool)
    return Known(np.where(chosen, a.array, b.array), a.dtype)


@shape_rule("ReduceProd")
def product(x: Known, _axes: Known | None = None, /, *, keepdims: int = 1, **_: Any) -> Known | None:
    """Product of a list of lengths."""
    if x.array.ndim != 1:
        return None
    result = reduce(arithmetic.mul, x.list(), 1)
    return Known.of([result] if keepdims else result, x.dtype)


@shape_rule("ConstantOfShape")
def filled(target: Known, *, value: torch.Tensor | None = None) -> Known | None:
    """The same number everywhere, where the shape is small and plain."""
    lengths = target.list()
    if not all(map(_plain, lengths)) or math.prod(lengths) > LARGEST_KNOWN or (value is not None and value.is_floating_point()):
        return None
    if value is None:
        return None
    return Known(np.full(lengths, value.item(), dtype=object), value.dtype)


@shape_rule("Range")
def number_range(start: Known, limit: Known, delta: Known) -> Known | None:
    """The numbers from start to limit, where all are plain integers and few."""
    bounds = [known.item() for known in (start, limit, delta)]
    if not all(type(bound) is int for bound in bounds) or bounds[2] == 0:
        return None
    numbers = range(*bounds)
    return Known.of(list(numbers), start.dtype) if len(numbers) <= _SHORT else None


_SHORT = 64
