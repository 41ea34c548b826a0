"""Ternary: each weight is zero, or plus or minus one scale."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from lissom.grids.affine import check_finite
from lissom.grids.binary import Signed
from lissom.grids.cells import Cells, spread

__all__ = ["Ternary"]


class Ternary(Signed):
    """``value = scale * sign(weight)`` where ``|weight| > threshold``, else 0 (ternary weight networks, arXiv:1605.04711).

    Args:
        scale: See :class:`~lissom.grids.scaled.Scaled`.
        threshold: float32 of the same shape.

    Example:
        >>> grid = Ternary.fit(torch.tensor([0.1, 1.0, -0.8, 0.0]))
        >>> grid.levels(torch.tensor([0.1, 1.0, -0.8, 0.0])).tolist(), round(grid.scale.item(), 2)
        ([0, 1, -1, 0], 0.9)
    """

    follows: ClassVar = {**Signed.follows, "threshold": "all"}
    threshold: Tensor

    def __init__(self, scale: Tensor, threshold: Tensor) -> None:
        super().__init__(scale)
        self.register_buffer("threshold", threshold.detach().to(torch.float32))

    @classmethod
    def fit(cls, weight: Tensor, *, channel_axis: int | None = None, group: int | None = None, share: float = 0.7) -> Self:
        """The paper's rule for each cell: threshold ``share * mean |w|``, scale the mean magnitude above it.

        Weights that are zero already, masked perhaps, do not count in the mean.
        """
        check_finite(weight)
        cells = Cells(channel_axis, group)
        rows = cells.rows(weight.detach().to(torch.float32)).abs()
        threshold = share * rows.sum(1) / (rows > 0).sum(1).clamp(min=1)
        above = rows > threshold[:, None]
        scale = (rows * above).sum(1) / above.sum(1).clamp(min=1)
        return cls(cells.fold(scale, weight), cells.fold(threshold, weight))

    def levels(self, weight: Tensor) -> Tensor:
        """-1, 0 or 1 for each weight, int32."""
        found = weight.detach().to(torch.float32)
        return torch.where(found.abs() > spread(self.threshold, weight), found.sign(), 0.0).to(torch.int32)
