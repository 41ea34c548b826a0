"""Affine: equally spaced values, per tensor or per channel, symmetric about zero or not."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from lissom.codec.tensors import Uniform
from lissom.errors import DataRefused, UsageError
from lissom.grids.base import Grid

__all__ = ["Affine"]


class Affine(Grid):
    """``level = clamp(round(weight / scale) + zero_point)``, ``value = (level - zero_point) * scale``.

    Rounding is to nearest, ties to even, as ONNX's QuantizeLinear does it. Zero is always one of the values
    (Jacob et al., arXiv:1712.05877).

    Args:
        scale: float32, with as many axes as the weight, each of length 1 or of the weight's length.
        zero_point: int32 of the same shape.
        lowest: Smallest level.
        highest: Largest level.

    Example:
        >>> grid = Affine.fit(torch.tensor([-1.0, 0.25, 1.0]), bits=8, symmetric=True)
        >>> grid.levels(torch.tensor([-1.0, 0.25, 1.0])).tolist()
        [-127, 32, 127]
    """

    follows: ClassVar = {"scale": "all", "zero_point": "all"}
    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: Tensor, lowest: int, highest: int) -> None:
        super().__init__()
        self.register_buffer("scale", scale.to(torch.float32))
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.lowest, self.highest = lowest, highest

    @classmethod
    def fit(cls, weight: Tensor, *, bits: int, symmetric: bool = True, channel_axis: int | None = None) -> Self:
        """The grid that just covers the range of ``weight``.

        Args:
            weight: float tensor; its smallest and largest value (per channel) set the scale.
            bits: 2 to 16.
            symmetric: Levels ``-(2^(b-1) - 1) … 2^(b-1) - 1`` and zero point 0; otherwise ``0 … 2^b - 1``.
            channel_axis: One scale per position of this axis; None for one scale.

        Raises:
            UsageError: ``bits`` is out of range or the axis does not exist.
            DataRefused: the weight holds NaN or infinity.
        """
        if not 2 <= bits <= 16:
            raise UsageError(f"bits is {bits}; an affine grid takes 2 to 16")
        if channel_axis is not None and not -weight.ndim <= channel_axis < weight.ndim:
            raise UsageError(f"channel_axis is {channel_axis}; the weight has {weight.ndim} axes")
        if not bool(torch.isfinite(weight).all()):
            raise DataRefused("a weight to quantize holds NaN or infinity; load weights that are finite")
        low, high = _range(weight.detach().to(torch.float32), channel_axis)
        if symmetric:
            highest = 2 ** (bits - 1) - 1
            scale = _positive(torch.maximum(-low, high) / highest)
            return cls(scale, torch.zeros_like(scale, dtype=torch.int32), -highest, highest)
        scale = _positive((high - low) / (2**bits - 1))
        zero_point = torch.round(-low / scale).clamp(0, 2**bits - 1)
        return cls(scale, zero_point, 0, 2**bits - 1)

    def levels(self, weight: Tensor) -> Tensor:
        """The nearest level of each weight, int32."""
        rounded = torch.round(weight.detach().to(torch.float32) / self.scale) + self.zero_point
        return rounded.clamp(self.lowest, self.highest).to(torch.int32)

    def values(self, levels: Tensor) -> Tensor:
        """``(levels - zero_point) * scale`` in float32."""
        return (levels - self.zero_point).to(torch.float32) * self.scale

    def decoding(self) -> Uniform:
        """The scales and zero points as the archive and the exported file hold them."""
        return Uniform(self.scale.detach().cpu().numpy(), self.zero_point.cpu().numpy().astype(np.int32))


def _range(weight: Tensor, channel_axis: int | None) -> tuple[Tensor, Tensor]:
    """Smallest and largest value, zero included, with the axes kept at length 1."""
    axes = [axis for axis in range(weight.ndim) if channel_axis is None or axis != channel_axis % weight.ndim]
    if not axes:  # one value per channel, or a scalar
        return weight.clamp(max=0), weight.clamp(min=0)
    return weight.amin(axes, keepdim=True).clamp(max=0), weight.amax(axes, keepdim=True).clamp(min=0)


def _positive(scale: Tensor) -> Tensor:
    """A channel that is all zero gets scale 1: any scale decodes its zeros, and 0 would divide by zero."""
    return torch.where(scale > torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
