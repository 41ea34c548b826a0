"""LearnedAffine: equally spaced values about zero whose step training moves with the weights."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lissom.codec.tensors import Uniform
from lissom.errors import UsageError
from lissom.grids.affine import Affine
from lissom.grids.cells import spread
from lissom.grids.scaled import Scaled

__all__ = ["LearnedAffine"]


class LearnedAffine(Scaled):
    """``level = clamp(round(weight / scale))``, ``value = level * scale`` with a learned scale (LSQ, arXiv:1902.08153).

    The gradient of a step is that of the rounded values: ``level - weight / scale`` inside of the range, the outermost
    level beyond it; it is divided by the root of how many weights share the step, times the highest level, as the paper does.

    Args:
        scale: float32, of the weight's axes, each of length 1, of the weight's, or of one entry per group.
        lowest: Smallest level.
        highest: Largest level.

    Example:
        >>> LearnedAffine(torch.tensor([0.5]), -1, 1)(torch.tensor([0.3, -2.0])).tolist()
        [0.5, -0.5]
    """

    def __init__(self, scale: Tensor, lowest: int, highest: int) -> None:
        super().__init__(scale)
        self.lowest, self.highest = lowest, highest

    @classmethod
    def fit(
        cls,
        weight: Tensor,
        *,
        bits: int,
        channel_axis: int | None = None,
        group: int | None = None,
        range: str = "mse",  # noqa: A002
    ) -> Self:
        """The symmetric grid that covers the range of ``weight``; see :meth:`lissom.grids.affine.Affine.fit`."""
        if bits < 2:
            raise UsageError(f"bits is {bits}; a learned affine grid takes 2 to 16")
        start = Affine.fit(weight, bits=bits, channel_axis=channel_axis, group=group, range=range)
        return cls(start.scale, start.lowest, start.highest)

    def levels(self, weight: Tensor) -> Tensor:
        """The nearest level of each weight, int32."""
        scaled = weight.detach().to(torch.float32) / spread(self.scale.detach(), weight)
        return scaled.round().clamp(self.lowest, self.highest).to(torch.int32)

    def values(self, levels: Tensor) -> Tensor:
        """``levels * scale`` in float32."""
        return levels.to(torch.float32) * spread(self.scale.detach(), levels)

    def forward(self, weight: Tensor) -> Tensor:
        """The values; gradients reach the weights inside of the range, and the scale."""
        shared = weight.numel() / self.start.numel() * self.highest
        scale = _Shrunk.apply(self.scale, self.start.square().clamp(min=1e-12) * shared**0.5)  # type: ignore[no-untyped-call]
        result: Tensor = _Rounded.apply(weight, spread(scale, weight), self.lowest, self.highest)  # type: ignore[no-untyped-call]
        return result

    def decoding(self) -> Uniform:
        """The scales as the archive and the exported file hold them."""
        scale = self.scale.detach().cpu().numpy().copy()
        return Uniform(scale, np.zeros_like(scale, np.int32))


class _Shrunk(torch.autograd.Function):
    """The identity, with the gradient divided: what is learned is a logarithm, whose step is relative already."""

    @staticmethod
    def forward(ctx: Any, scale: Tensor, by: Tensor) -> Tensor:
        ctx.save_for_backward(by)
        return scale.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.saved_tensors[0], None


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, lowest: int, highest: int) -> Tensor:
        scaled = weight.to(torch.float32) / scale
        levels = scaled.round().clamp_(lowest, highest)
        inside = (scaled >= lowest) & (scaled <= highest)
        ctx.save_for_backward(inside, torch.where(inside, levels - scaled, levels))
        ctx.shape = scale.shape
        return levels * scale + 0.0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inside, moved = ctx.saved_tensors
        return gradients[0] * inside, (gradients[0] * moved).sum_to_size(ctx.shape), None, None
