"""Linear: levels by a factor and a float offset, rounded down or to the nearest."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Tabled
from lissom.grids.rounding import ROUNDINGS

__all__ = ["Linear"]


class Linear(Tabled):
    """``level = floor(x * s + o)`` or ``round(x * s + o)``, ``value = (level - o) / s``.

    The offset is any float, so zero need not be one of the values; where it must be, take
    :class:`~lissom.grids.affine.Affine`.

    Args:
        factor: s, above 0.
        offset: o.
        bits: Levels ``0 … 2^bits - 1``; 1 to 16.
        rounding: ``"floor"`` or ``"nearest"``.

    Example:
        >>> grid = Linear(2.0, 0.5, bits=3, rounding="floor")
        >>> grid.levels(torch.tensor([0.3, 1.0])).tolist(), grid(torch.tensor([0.3, 1.0])).tolist()
        ([1, 2], [0.25, 0.75])
    """

    def __init__(self, factor: float, offset: float, bits: int, rounding: str = "floor") -> None:
        if not 1 <= bits <= 16:
            raise UsageError(f"bits is {bits}; a linear grid takes 1 to 16")
        super().__init__((torch.arange(2**bits, dtype=torch.float64) - offset) / factor)
        self.factor, self.offset, self.rounding = factor, offset, rounding

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int, rounding: str = "floor") -> Self:
        """The grid whose lowest level is the smallest weight and whose highest is the largest."""
        check_finite(weight)
        low, high = float(weight.min()), float(weight.max())
        factor = (2**bits - 1) / (high - low) if high > low else 1.0
        return cls(factor, -low * factor, bits, rounding)

    def levels(self, weight: Tensor) -> Tensor:
        """The level of each weight, int32."""
        scaled = weight.detach().double() * self.factor + self.offset
        return ROUNDINGS[self.rounding](scaled).clamp(0, len(self.table) - 1).to(torch.int32)
