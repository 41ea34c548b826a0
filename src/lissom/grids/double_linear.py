"""DoubleLinear: one linear map to whole numbers, another back to floats."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Tabled
from lissom.grids.rounding import down

__all__ = ["DoubleLinear"]


class DoubleLinear(Tabled):
    """``level = floor(x * s1 + o1)``, ``value = level * s2 + o2``.

    Args:
        factor: s1, above 0.
        offset: o1.
        step: s2, above 0.
        start: o2, the value of level 0.
        bits: Levels ``0 … 2^bits - 1``; 1 to 16.

    Example:
        >>> grid = DoubleLinear(4.0, 0.5, step=0.25, start=0.0, bits=3)
        >>> grid(torch.tensor([0.3, 0.4])).tolist()
        [0.25, 0.5]
    """

    def __init__(self, factor: float, offset: float, *, step: float, start: float, bits: int) -> None:
        if not 1 <= bits <= 16:
            raise UsageError(f"bits is {bits}; a double-linear grid takes 1 to 16")
        super().__init__(torch.arange(2**bits, dtype=torch.float64) * step + start)
        self.factor, self.offset = factor, offset

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int) -> Self:
        """From the smallest weight to the largest; the offset of a half makes the floor round to the nearest value."""
        check_finite(weight)
        low, high = float(weight.min()), float(weight.max())
        step = (high - low) / (2**bits - 1) or 1.0
        return cls(1 / step, 0.5 - low / step, step=step, start=low, bits=bits)

    def levels(self, weight: Tensor) -> Tensor:
        """The level of each weight, int32."""
        scaled = weight.detach().double() * self.factor + self.offset
        return down(scaled).clamp(0, len(self.table) - 1).to(torch.int32)
