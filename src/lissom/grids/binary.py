"""Binary: each weight is plus or minus one scale."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lissom.codec.tensors import Uniform
from lissom.grids.affine import check_finite
from lissom.grids.cells import Cells, spread
from lissom.grids.scaled import Scaled

__all__ = ["Binary", "Signed"]


class _Times(torch.autograd.Function):
    """``signs * scale``, with the gradient straight through to the weight; one pass each way over what is large."""

    @staticmethod
    def forward(ctx: Any, _weight: Tensor, signs: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(signs, scale)
        return signs * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        signs, scale = ctx.saved_tensors
        if scale.numel() == 1:
            return gradients[0], None, torch.dot(gradients[0].flatten(), signs.flatten()).reshape(scale.shape)
        return gradients[0], None, (gradients[0] * signs).sum_to_size(scale.shape)


class Signed(Scaled):
    """``value = level * scale`` with levels -1, (0,) 1 and a scale that training moves.

    The gradient of a scale is the sum over its weights of gradient times level; that of the weights goes straight through.
    """

    def signs(self, weight: Tensor) -> Tensor:
        """The levels as float32, for training."""
        return self.levels(weight).to(torch.float32)

    def forward(self, weight: Tensor) -> Tensor:
        """The values; gradients reach the weights and the scale."""
        result: Tensor = _Times.apply(weight, self.signs(weight), spread(self.scale, weight))  # type: ignore[no-untyped-call]
        return result

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
        scale: See :class:`~lissom.grids.scaled.Scaled`.

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
        return self.signs(weight).to(torch.int32)

    def signs(self, weight: Tensor) -> Tensor:
        """1 or -1 for each weight, float32."""
        # Half a step up sends the sign of zero to 1; torch.where takes ten times as long.
        return weight.detach().to(torch.float32).sign().add_(0.5).sign_()
