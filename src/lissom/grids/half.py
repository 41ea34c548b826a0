"""Half: the values of float16 or bfloat16."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lissom.errors import DataRefused, UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Cast, Grid

__all__ = ["Half"]


class Half(Grid):
    """Levels are the bit patterns of a 16-bit float, 0 to 65,535; values are exact casts back to float32.

    float16 holds 11 significant bits up to 65,504, bfloat16 8 up to float32's own limit.

    Args:
        dtype: ``torch.float16`` or ``torch.bfloat16``.

    Example:
        >>> Half(torch.bfloat16)(torch.tensor([1.0, 0.1])).tolist()
        [1.0, 0.10009765625]
    """

    follows: ClassVar = {}

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype not in (torch.float16, torch.bfloat16):
            raise UsageError(f"dtype is {dtype}; a half grid takes torch.float16 or torch.bfloat16")
        self.dtype = dtype

    @classmethod
    def fit(cls, weight: Tensor, *, dtype: torch.dtype) -> Half:
        """The grid of ``dtype``, once it is sure that no weight is beyond its range."""
        check_finite(weight)
        limit = torch.finfo(dtype).max
        if bool((weight.abs() > limit).any()):
            raise DataRefused(f"a weight of {float(weight.abs().max()):g} is beyond {limit:g}, the end of {dtype}: take bfloat16")
        return cls(dtype)

    def levels(self, weight: Tensor) -> Tensor:
        """The bit pattern of the nearest value (ties to even), int32."""
        bits = weight.detach().to(self.dtype).contiguous().view(torch.int16)
        return bits.to(torch.int32) & 0xFFFF

    def values(self, levels: Tensor) -> Tensor:
        """The float32 values of bit patterns."""
        signed = torch.where(levels >= 2**15, levels - 2**16, levels).to(torch.int16)
        return signed.view(self.dtype).to(torch.float32)

    def decoding(self) -> Cast:
        """The dtype that archive and file hold the values in."""
        return Cast(self.dtype)
