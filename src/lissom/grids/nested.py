"""NestedScales: an affine grid whose group scales are whole multiples of one float scale per channel."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from lissom.errors import UsageError
from lissom.grids.affine import Affine
from lissom.grids.cells import Cells

__all__ = ["NestedScales"]


class NestedScales(Affine):
    """``value = level * (scale_level * channel_scale)``: the double-linear map as it is used today.

    Groups want scales of their own, and float scales would cost more than the weights save: so a group's scale is a
    small whole number times the channel's (VS-Quant, arXiv:2102.04503). The product is taken once, in float32.

    Args:
        channel_scale: float32, of the weight's axes, one entry per channel.
        scale_levels: int32, of the weight's axes, one entry per channel and group, at least 1.
        lowest: Smallest level.
        highest: Largest level.

    Example:
        >>> grid = NestedScales.fit(torch.tensor([[0.1, 0.2, 0.7, 0.3]]), bits=4, channel_axis=0, group=2, scale_bits=4)
        >>> grid.scale_levels.tolist()
        [[5, 15]]
    """

    follows: ClassVar = {**Affine.follows, "channel_scale": "all", "scale_levels": "all"}

    def __init__(self, channel_scale: Tensor, scale_levels: Tensor, lowest: int, highest: int) -> None:
        scale = channel_scale.to(torch.float32) * scale_levels.to(torch.float32)
        super().__init__(scale, torch.zeros_like(scale), lowest, highest)
        self.register_buffer("channel_scale", channel_scale.to(torch.float32))
        self.register_buffer("scale_levels", scale_levels.to(torch.int32))

    @classmethod
    def fit(  # type: ignore[override]
        cls, weight: Tensor, *, bits: int, channel_axis: int | None = None, group: int | None = 32, scale_bits: int = 6
    ) -> Self:
        """Symmetric max-abs scales of groups, rounded up to ``scale_bits`` bits of their channel's, so that nothing clips."""
        if not 1 <= scale_bits <= 16:
            raise UsageError(f"scale_bits is {scale_bits}; it takes 1 to 16")
        fine = Affine.fit(weight, bits=bits, channel_axis=channel_axis, group=group)
        occupied = Cells(channel_axis, group).fold(Cells(channel_axis, group).rows(weight).abs().amax(1), weight) > 0
        scale = torch.where(occupied, fine.scale, 0.0)
        axes = [axis for axis in range(weight.ndim) if channel_axis is None or axis != channel_axis % weight.ndim]
        largest = scale.amax(axes, keepdim=True) if axes else scale
        channel = torch.where(largest > 0, largest / (2**scale_bits - 1), 1.0)
        return cls(channel, torch.ceil(scale / channel - 1e-4).clamp(1, 2**scale_bits - 1), fine.lowest, fine.highest)
