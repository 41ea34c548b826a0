"""PowerOfTwo: logarithmic levels, so that a product is a shift."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Tabled

__all__ = ["PowerOfTwo"]


class PowerOfTwo(Tabled):
    """``value = sign(x) * base^round(log_base |x|)``, or zero (Miyashita et al., arXiv:1603.01025).

    Of the ``2^b`` levels one is zero, and each sign has ``2^(b-1) - 1`` exponents up to ``highest``. What lies less than half a
    step, on the logarithmic scale, above the smallest power or below it is zero's if half that power is nearer to zero.

    Args:
        highest: The largest exponent.
        bits: b, 2 to 8.
        base: Above 1; 2 makes products into shifts, its square root doubles the resolution.

    Example:
        >>> grid = PowerOfTwo(highest=0, bits=3)
        >>> grid.table.tolist()
        [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]
        >>> grid(torch.tensor([0.8, -0.3, 0.1])).tolist()
        [1.0, -0.25, 0.0]
    """

    count: int

    def __init__(self, highest: int, bits: int, base: float = 2.0) -> None:
        if not 2 <= bits <= 8:
            raise UsageError(f"bits is {bits}; a logarithmic grid takes 2 to 8")
        if base <= 1:
            raise UsageError(f"base is {base}; it must be above 1")
        self.count = 2 ** (bits - 1) - 1
        powers = torch.tensor([base**exponent for exponent in range(highest - self.count + 1, highest + 1)])
        super().__init__(torch.cat([-powers.flip(0), torch.zeros(1), powers]))
        self.highest, self.base = highest, base

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int, base: float = 2.0) -> Self:
        """The grid whose largest power is nearest to the largest magnitude."""
        check_finite(weight)
        largest = float(weight.abs().max())
        return cls(round(math.log(largest, base)) if largest > 0 else 0, bits, base)

    def levels(self, weight: Tensor) -> Tensor:
        """The level of each weight, int32; the middle one is zero."""
        magnitude = weight.detach().abs().double()
        smallest = self.highest - self.count + 1
        exponent = torch.round(magnitude.clamp(min=1e-300).log() / math.log(self.base)).clamp(smallest, self.highest)
        number = exponent - smallest + 1
        number = torch.where(magnitude * 2 <= self.base**smallest, 0.0, number)
        return (self.count + torch.sign(weight.detach()).double() * number).to(torch.int32)
