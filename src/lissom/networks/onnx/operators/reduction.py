"""Reductions over axes, and the positions of extremes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lissom.networks.onnx.operators.dtypes import STORED_ONLY
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keepdim=keep, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep, dtype=x.dtype)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(torch.sum(x, axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _extreme(function: Callable[..., Tensor], of_nothing: str) -> Reduce:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.dtype == torch.bool:
            return reduce(x.to(torch.uint8), axes, keep).to(torch.bool)
        if x.dtype in STORED_ONLY:
            return reduce(x.to(torch.int64), axes, keep).to(x.dtype)
        if x.numel() == 0:  # the extreme of nothing is the type's own limit
            limit = float(of_nothing) if x.is_floating_point() else getattr(torch.iinfo(x.dtype), _LIMIT[of_nothing])
            shape = [1 if keep and i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
            return torch.full(shape, limit, dtype=x.dtype)
        return function(x, axes, keepdim=keep)

    return reduce


_LIMIT = {"inf": "max", "-inf": "min"}


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.sqrt(_sum(x * x, axes, keep))
    return torch.sqrt(_sum(x * x, axes, keep).to(torch.float64)).to(x.dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep))


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, axes, keepdim=keep)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


_REDUCTIONS: dict[str, tuple[Reduce, int]] = {
    "ReduceSum": (_sum, 13), "ReduceProd": (_product, 18), "ReduceMean": (_mean, 18), "ReduceL1": (_l1, 18),
    "ReduceMax": (_extreme(torch.amax, "-inf"), 18), "ReduceMin": (_extreme(torch.amin, "inf"), 18), "ReduceL2": (_l2, 18),
    "ReduceLogSum": (_log_sum, 18), "ReduceLogSumExp": (_log_sum_exp, 18), "ReduceSumSquare": (_sum_square, 18),
}  # fmt: skip
"""Each reduction, and the version since when its axes are an input."""


def _register(name: str, reduce: Reduce, axes_are_input: int) -> None:
    @operator(name, axes_are_input)
    def by_input(x: Tensor, axes: Known | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        chosen = [] if axes is None else axes.list()
        if chosen or not noop_with_empty_axes:
            return over(x, chosen, keepdims)
        return reduce(x.unsqueeze(0), [0], False)  # over no axis: only the elementwise part, as |x| in ReduceL1

    @operator(name, 1, axes_are_input - 1)
    def by_attribute(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
        return over(x, axes or [], keepdims)

    def over(x: Tensor, axes: list[int], keepdims: int) -> Tensor:
        chosen = [axis % x.ndim for axis in axes] if axes else list(range(x.ndim))
        return reduce(x, chosen, bool(keepdims)) if chosen else reduce(x.unsqueeze(0), [0], False)


for _name, (_reduce, _since) in _REDUCTIONS.items():
    _register(_name, _reduce, _since)


@operator("ArgMax")
def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Position of the largest element along the axis; of several, the first or the last."""
    return _position(torch.argmax, x, axis, keepdims, select_last_index)


@operator("ArgMin")
def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Position of the smallest element along the axis; of several, the first or the last."""
    return _position(torch.argmin, x, axis, keepdims, select_last_index)


def _position(function: Callable[..., Tensor], x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    found = function(x.flip(axis) if last else x, axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - found if last else found


@operator("TopK", 10, ignores=("sorted",))
def top_k(x: Tensor, k: Known, *, axis: int = -1, largest: int = 1) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along the axis, and their positions; of equals, the first come first."""
    return _top_k(x, k.item(), axis, bool(largest))


@operator("TopK", 1, 9)
def top_k_by_attribute(x: Tensor, *, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    """The k largest along the axis, and their positions."""
    return _top_k(x, k, axis, True)


def _top_k(x: Tensor, k: int, axis: int, descending: bool) -> tuple[Tensor, Tensor]:
    if x.dtype in STORED_ONLY:
        values, positions = _top_k(x.to(torch.int64), k, axis, descending)
        return values.to(x.dtype), positions
    # torch.topk leaves the order of equal elements open; a stable sort keeps the first one first, as ONNX asks.
    values, positions = torch.sort(x, dim=axis, descending=descending, stable=True)
    return values.narrow(axis, 0, k), positions.narrow(axis, 0, k)
