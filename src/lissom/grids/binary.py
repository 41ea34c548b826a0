"""Binary: each weight is plus or minus one scale."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from lissom.codec.tensors import Uniform
from lissom.grids.affine import check_finite
from lissom.grids.base import Grid
from lissom.grids.cells import Cells, spread

__all__ = ["Binary", "Signed"]


class Signed(Grid):
    """``value = level * scale`` with levels -1, (0,) 1 and a scale that training moves.

    The gradient of a scale is the sum over its weights of gradient times level; that of the weights goes straight through.

    Args:
        scale: float32, of the weight's axes, each of length 1, of the weight's, or of one entry per group.
    """

    follows: ClassVar = {"scale": "all"}

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.detach().to(torch.float32).clone())

    def forward(self, weight: Tensor) -> Tensor:
        """The values; gradients reach the weights and the scale."""
        signs = self.levels(weight).to(torch.float32) * spread(self.scale, weight)
        return signs + (weight - weight.detach())  # a difference of nothing, which carries the gradient

    def values(self, levels: Tensor) -> Tensor:
        """``levels * scale`` in float32."""
        return levels.to(torch.float32) * spread(self.scale.detach(), levels)

    def decoding(self) -> Uniform:
        """The scales as the archive and the exported file hold them."""
        scale = self.scale.detach().cpu().numpy().copy()
        return Uniform(scale, np.zeros_like(scale, np.int32))


class Binary(Signed):
    """``value = scale * sign(weight)``, the scale being the mean magnitude (XNOR-Net, arXiv:1603.05279).

    With a scale of 1 it is BinaryConnect (arXiv:1511.00363). There is no zero: a weight that is exactly zero counts as
    positive, and a masked one is zero all the same.

    Args:
        scale: See :class:`Signed`.

    Example:
        >>> Binary.fit(torch.tensor([0.5, -1.5]))(torch.tensor([0.5, -1.5])).tolist()
        [1.0, -1.0]
    """

    @classmethod
    def fit(cls, weight: Tensor, *, channel_axis: int | None = None, group: int | None = None) -> Self:
        """The scale of least squared error for each cell; weights that are zero, masked perhaps, do not count."""
        check_finite(weight)
        cells = Cells(channel_axis, group)
        rows = cells.rows(weight.detach().to(torch.float32)).abs()
        mean = rows.sum(1) / (rows > 0).sum(1).clamp(min=1)
        return cls(cells.fold(mean, weight))

    def levels(self, weight: Tensor) -> Tensor:
        """1 or -1 for each weight, int32."""
        return torch.where(weight.detach() < 0, -1, 1).to(torch.int32)
