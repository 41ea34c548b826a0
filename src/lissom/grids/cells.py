"""Cells: which weights share one scale: a whole tensor, a channel, or a group of neighbours within a channel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from lissom.errors import UsageError

__all__ = ["Cells", "spread"]


@dataclass(frozen=True)
class Cells:
    """Which weights share one scale.

    Args:
        channel_axis: One cell for each position of this axis; None for one cell.
        group: At most so many neighbours share a cell, along the first axis that is not the channel's; None for all.
            An axis of length m is cut into ``ceil(m / group)`` blocks of equal length (the last may be shorter).

    Example:
        >>> import torch
        >>> Cells(channel_axis=0, group=2).rows(torch.arange(6.0).reshape(2, 3)).tolist()
        [[0.0, 1.0], [2.0, 0.0], [3.0, 4.0], [5.0, 0.0]]
    """

    channel_axis: int | None = None
    group: int | None = None

    def rows(self, weight: Tensor) -> Tensor:
        """The weights of each cell, [cells, weights in a cell]; a short last group is filled up with zeros."""
        self._check(weight)
        axis, channel = self._group_axis(weight), self.channel_axis
        if axis is None:
            return weight.reshape(1, -1) if channel is None else weight.movedim(channel, 0).reshape(weight.shape[channel], -1)
        blocks, length = self._blocks(weight, axis)
        padded = F.pad(weight.movedim(axis, -1), (0, blocks * length - weight.shape[axis]))
        in_front = padded.reshape(*padded.shape[:-1], blocks, length).movedim(-2, 0)
        if channel is None:
            return in_front.reshape(blocks, -1)
        # The block axis stands in front now, and the group axis went to the end.
        position = channel % weight.ndim + (channel % weight.ndim < axis)
        return in_front.movedim(position, 0).reshape(weight.shape[channel] * blocks, -1)

    def fold(self, per_cell: Tensor, weight: Tensor) -> Tensor:
        """One value per cell, laid out as a scale of ``weight``: as many axes, each of length 1 or one entry per cell."""
        shape = [1] * weight.ndim
        axis = self._group_axis(weight)
        channels = 1
        if self.channel_axis is not None:
            channels = shape[self.channel_axis % weight.ndim] = weight.shape[self.channel_axis]
        table = per_cell.reshape(channels, -1)
        if axis is not None:
            shape[axis] = table.shape[1]
            if self.channel_axis is not None and axis < self.channel_axis % weight.ndim:
                table = table.T
        return table.reshape(shape)

    def _check(self, weight: Tensor) -> None:
        if self.channel_axis is not None and not -weight.ndim <= self.channel_axis < weight.ndim:
            raise UsageError(f"channel_axis is {self.channel_axis}; it must be an axis of the weight, 0 to {weight.ndim - 1}")
        if self.group is not None and self.group < 1:
            raise UsageError(f"group is {self.group}; it takes 1 or more weights")

    def _group_axis(self, weight: Tensor) -> int | None:
        if self.group is None:
            return None
        channel = None if self.channel_axis is None else self.channel_axis % weight.ndim
        return next((axis for axis in range(weight.ndim) if axis != channel), None)

    def _blocks(self, weight: Tensor, axis: int) -> tuple[int, int]:
        blocks = -(-weight.shape[axis] // (self.group or 1))
        return blocks, -(-weight.shape[axis] // blocks)


def spread(parameter: Tensor, weight: Tensor) -> Tensor:
    """Repeat a parameter of blocks along their axes until it broadcasts against ``weight``.

    >>> import torch
    >>> spread(torch.tensor([[1, 2]]), torch.zeros(3, 4)).tolist()
    [[1, 1, 2, 2]]
    """
    for axis, (entries, length) in enumerate(zip(parameter.shape, weight.shape, strict=False)):
        if entries not in (1, length):
            block = -(-length // entries)
            parameter = parameter.repeat_interleave(block, axis).narrow(axis, 0, length)
    return parameter
