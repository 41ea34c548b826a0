"""Affine: equally spaced values, per tensor, channel or group, symmetric about zero or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lissom.codec.tensors import Uniform
from lissom.errors import DataRefused, UsageError
from lissom.grids.base import Grid
from lissom.grids.cells import Cells, spread
from lissom.grids.ranges import RANGES
from lissom.grids.rounding import ROUNDINGS

__all__ = ["Affine", "check_finite"]


class Affine(Grid):
    """``level = clamp(round(weight / scale) + zero_point)``, ``value = (level - zero_point) * scale``.

    Rounding is to nearest, ties to even, as ONNX's QuantizeLinear does it, or down. Zero is always one of the values
    (Jacob et al., arXiv:1712.05877).

    Args:
        scale: float32, with as many axes as the weight, each of length 1, of the weight's length, or of one entry for
            each block of ``ceil(length / entries)`` positions.
        zero_point: int32 of the same shape.
        lowest: Smallest level.
        highest: Largest level.
        rounding: ``"nearest"`` or ``"floor"``.

    Example:
        >>> grid = Affine.fit(torch.tensor([-1.0, 0.25, 1.0]), bits=8, symmetric=True)
        >>> grid.levels(torch.tensor([-1.0, 0.25, 1.0])).tolist()
        [-127, 32, 127]
    """

    follows: ClassVar = {"scale": "all", "zero_point": "all"}
    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, lowest: int, highest: int, rounding: str = "nearest") -> None:
        super().__init__()
        self.register_buffer("scale", scale.to(torch.float32))
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.lowest, self.highest, self.rounding = lowest, highest, rounding

    @classmethod
    def fit(
        cls,
        weight: Tensor,
        *,
        bits: int,
        symmetric: bool = True,
        channel_axis: int | None = None,
        group: int | None = None,
        range: str = "minmax",  # noqa: A002 - the field's word
        rounding: str = "nearest",
    ) -> Self:
        """The grid that covers the range of ``weight``.

        Args:
            weight: float tensor.
            bits: 2 to 16.
            symmetric: Levels ``-(2^(b-1) - 1) … 2^(b-1) - 1`` and zero point 0; otherwise ``0 … 2^b - 1``.
            channel_axis: One scale per position of this axis; None for one scale.
            group: One scale per so many neighbours (see :class:`~lissom.grids.cells.Cells`).
            range: A key of :data:`lissom.grids.ranges.RANGES`: what of the weight's range is covered.
            rounding: ``"nearest"`` or ``"floor"``.

        Raises:
            UsageError: ``bits`` is out of range or the axis does not exist.
            DataRefused: the weight holds NaN or infinity.
        """
        if not 2 <= bits <= 16:
            raise UsageError(f"bits is {bits}; an affine grid takes 2 to 16")
        check_finite(weight)
        cells = Cells(channel_axis, group)
        low, high = RANGES[range](cells.rows(weight.detach().to(torch.float32)), bits, symmetric)
        low, high = low.clamp(max=0), high.clamp(min=0)
        if symmetric:
            highest = 2 ** (bits - 1) - 1
            scale = _positive(torch.maximum(-low, high) / highest)
            return cls(cells.fold(scale, weight), cells.fold(torch.zeros_like(scale), weight), -highest, highest, rounding)
        scale = _positive((high - low) / (2**bits - 1))
        zero_point = torch.round(-low / scale).clamp(0, 2**bits - 1)
        return cls(cells.fold(scale, weight), cells.fold(zero_point, weight), 0, 2**bits - 1, rounding)

    def levels(self, weight: Tensor, rounding: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The level of each weight, int32; another rounding may be given for this once."""
        scaled = weight.detach().to(torch.float32) / spread(self.scale, weight)
        rounded = (rounding or ROUNDINGS[self.rounding])(scaled) + spread(self.zero_point, weight)
        return rounded.clamp(self.lowest, self.highest).to(torch.int32)

    def values(self, levels: Tensor) -> Tensor:
        """``(levels - zero_point) * scale`` in float32."""
        return (levels - spread(self.zero_point, levels)).to(torch.float32) * spread(self.scale, levels)

    def decoding(self) -> Uniform:
        """The scales and zero points as the archive and the exported file hold them."""
        return Uniform(self.scale.detach().cpu().numpy(), self.zero_point.cpu().numpy().astype(np.int32))


def check_finite(weight: Tensor) -> None:
    """Refuse a weight that no grid can hold."""
    if not bool(torch.isfinite(weight).all()):
        raise DataRefused("a weight to quantize holds NaN or infinity; load weights that are finite")


def _positive(scale: Tensor) -> Tensor:
    """A channel that is all zero gets scale 1: any scale decodes its zeros, and 0 would divide by zero."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
