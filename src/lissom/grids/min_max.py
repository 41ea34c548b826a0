"""MinMax: equal steps from the smallest weight to the largest."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Tabled

__all__ = ["MinMax"]


class MinMax(Tabled):
    """``level = round((x - xmin) / (xmax - xmin) * (2^b - 1))``, ``value = xmin + level * (xmax - xmin) / (2^b - 1)``.

    Both ends are values, zero need not be one.

    Args:
        lowest: xmin.
        highest: xmax, not below it.
        bits: b, 1 to 16.

    Example:
        >>> MinMax(-1.0, 2.0, bits=2).table.tolist()
        [-1.0, 0.0, 1.0, 2.0]
    """

    def __init__(self, lowest: float, highest: float, bits: int) -> None:
        if not 1 <= bits <= 16:
            raise UsageError(f"bits is {bits}; a min-max grid takes 1 to 16")
        super().__init__(torch.linspace(lowest, highest, 2**bits, dtype=torch.float64))
        self.lowest, self.step = lowest, (highest - lowest) / (2**bits - 1) or 1.0

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int) -> Self:
        """The grid from the smallest weight to the largest."""
        check_finite(weight)
        return cls(float(weight.min()), float(weight.max()), bits)

    def levels(self, weight: Tensor) -> Tensor:
        """The nearest level of each weight, int32."""
        scaled = (weight.detach().double() - self.lowest) / self.step
        return torch.round(scaled).clamp(0, len(self.table) - 1).to(torch.int32)
