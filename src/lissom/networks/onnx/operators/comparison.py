"""Comparisons, boolean logic and selection."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lissom.networks.onnx.operators.dtypes import computed_as_int64
from lissom.networks.onnx.table import operator

_COMPARISONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip


def _comparison(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    @computed_as_int64
    def compare(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)

    return compare


for _name, _function in _COMPARISONS.items():
    operator(_name)(_comparison(_function))


@operator("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where the condition holds, else ``b``; all broadcast."""
    return torch.where(condition, a, b)
