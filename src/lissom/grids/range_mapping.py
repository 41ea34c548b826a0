"""RangeMapping: the weights' range mapped onto the whole numbers of a chosen range."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Tabled

__all__ = ["RangeMapping"]


class RangeMapping(Tabled):
    """``y = round(l + (x - xmin) * (u - l) / (xmax - xmin))``, a whole number of ``[l, u]``, and the way back.

    Levels are counted from 0, so that ``y = level + l``.

    Args:
        lowest: xmin.
        highest: xmax, not below it.
        onto: l and u, whole, at most 65,535 apart.

    Example:
        >>> grid = RangeMapping(-0.5, 0.5, onto=(-2, 2))
        >>> (grid.levels(torch.tensor([-0.5, 0.2])) - 2).tolist()
        [-2, 1]
    """

    def __init__(self, lowest: float, highest: float, onto: tuple[int, int]) -> None:
        low, high = onto
        if not 1 <= high - low < 2**16:
            raise UsageError(f"onto is {onto}; give two whole numbers, the lower first, at most 65,535 apart")
        super().__init__(torch.linspace(lowest, highest, high - low + 1, dtype=torch.float64))
        self.lowest, self.step, self.onto = lowest, (highest - lowest) / (high - low) or 1.0, onto

    @classmethod
    def fit(cls, weight: Tensor, *, onto: tuple[int, int]) -> Self:
        """The grid from the smallest weight to the largest."""
        check_finite(weight)
        return cls(float(weight.min()), float(weight.max()), onto)

    def levels(self, weight: Tensor) -> Tensor:
        """``y - l`` of each weight, int32."""
        low, high = self.onto
        mapped = low + (weight.detach().double() - self.lowest) / self.step
        return torch.round(mapped).clamp(low, high).sub(low).to(torch.int32)
