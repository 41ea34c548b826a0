"""FixedPoint: multiples of a power of two, as integer arithmetic without multipliers has them."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lissom.codec.tensors import Uniform
from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Grid

__all__ = ["FixedPoint"]


class FixedPoint(Grid):
    """``level = clamp(round(W * 2^p))`` in signed b-bit integers, ``value = level * 2^-p``.

    Args:
        fraction_bits: p, -64 to 64; below zero the steps are larger than 1.
        bits: b, 2 to 16.

    Example:
        >>> grid = FixedPoint(fraction_bits=2, bits=4)
        >>> grid(torch.tensor([0.3, 1.9, -9.0])).tolist()
        [0.25, 1.75, -2.0]
    """

    follows: ClassVar = {}

    def __init__(self, fraction_bits: int, bits: int) -> None:
        super().__init__()
        if not 2 <= bits <= 16 or not -64 <= fraction_bits <= 64:
            raise UsageError(f"fixed point of {bits} bits, {fraction_bits} of them fraction; it takes 2 to 16, and -64 to 64")
        self.fraction_bits, self.bits = fraction_bits, bits

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int) -> Self:
        """The finest step whose range holds the largest magnitude."""
        check_finite(weight)
        largest = float(weight.abs().max())
        room = math.log2((2 ** (bits - 1) - 1) / largest) if largest > 0 else 0.0
        return cls(int(max(-64, min(64, math.floor(room)))), bits)

    def levels(self, weight: Tensor) -> Tensor:
        """``W * 2^p`` to the nearest whole number, int32."""
        scaled = weight.detach().to(torch.float32) * 2.0**self.fraction_bits
        return torch.round(scaled).clamp(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1).to(torch.int32)

    def values(self, levels: Tensor) -> Tensor:
        """``levels * 2^-p``."""
        return levels.to(torch.float32) * 2.0**-self.fraction_bits

    def decoding(self) -> Uniform:
        """The step as the archive and the exported file hold it."""
        return Uniform(np.array(2.0**-self.fraction_bits, np.float32), np.zeros((), np.int32))
