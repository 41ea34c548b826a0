"""LearntStep: whole multiples of one step, which training moves; what rate-penalised training puts weights on."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from lissom.codec.tensors import Uniform
from lissom.errors import UsageError
from lissom.grids.affine import check_finite
from lissom.grids.base import Grid

__all__ = ["LearntStep"]

HIGHEST = 127
"""Levels fit a signed byte, so that the exported file holds them as one."""

SMALLEST = 1 / 64


class LearntStep(Grid):
    """``level = clamp(round(weight / unit))``, ``value = level * (unit * gain)`` with a trained ``gain``.

    The weight under the edit counts levels in a unit that stays, and the values of the levels move. So a step that
    grows takes its weights along and changes no level, and its gradient is the plain ``sum(g * level)``: training
    finds a coarse step in a few hundred iterations. Learned step size quantization (arXiv:1902.08153) divides by the
    moving step instead; every change of it then moves all levels.

    Args:
        unit: float32 scalar: how far the weight moves for one level.
        gain: What the step is in units; at least 1/64.

    Example:
        >>> grid = LearntStep(torch.tensor(0.5), torch.tensor(2.0))
        >>> grid(torch.tensor([0.2, 0.4, -1.1])).tolist()
        [0.0, 1.0, -2.0]
    """

    follows: ClassVar = {"unit": (), "gain": ()}
    unit: Tensor

    def __init__(self, unit: Tensor, gain: Tensor | None = None) -> None:
        super().__init__()
        if unit.numel() != 1 or not bool(unit > 0):
            raise UsageError("a learnt step starts from one unit above zero")
        self.register_buffer("unit", unit.detach().to(torch.float32).reshape(()))
        start = torch.ones((), device=unit.device) if gain is None else gain.detach().to(torch.float32).reshape(())
        self.gain = nn.Parameter(start.clone())

    @classmethod
    def fit(cls, weight: Tensor, *, resolution: float = 1.0) -> Self:
        """The grid whose unit is the root mean square of ``weight`` over ``resolution``; 1/16 where all is zero."""
        check_finite(weight)
        size = weight.detach().to(torch.float32).square().mean().sqrt()
        return cls(torch.where(size > torch.finfo(torch.float32).tiny, size / resolution, torch.full_like(size, 1 / 16)))

    @property
    def scale(self) -> Tensor:
        """The step, float32, detached."""
        return self.unit * self.gain.detach().clamp_min(SMALLEST)

    def levels(self, weight: Tensor) -> Tensor:
        """The nearest level of each weight, int32."""
        return torch.round(weight.detach().to(torch.float32) / self.unit).clamp(-HIGHEST, HIGHEST).to(torch.int32)

    def values(self, levels: Tensor) -> Tensor:
        """``levels * scale`` in float32."""
        return levels.to(torch.float32) * self.scale

    def forward(self, weight: Tensor) -> Tensor:
        """The values of the nearest levels; gradients go straight through to the weight, and to the gain."""
        result: Tensor = _Step.apply(weight, self.gain, self.unit)  # type: ignore[no-untyped-call]
        return result

    def decoding(self) -> Uniform:
        """The step as the archive and the exported file hold it."""
        return Uniform(self.scale.cpu().numpy().astype(np.float32), np.zeros((), np.int32))


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, gain: Tensor, unit: Tensor) -> Tensor:
        levels = (weight.to(torch.float32) / unit).round_().clamp_(-HIGHEST, HIGHEST)
        held = gain.clamp_min(SMALLEST)
        ctx.save_for_backward(levels, held, unit)
        # Through integers and back a negative zero becomes +0.0; adding it does the same in one pass.
        return levels * (unit * held) + 0.0

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        levels, held, unit = ctx.saved_tensors
        (gradient,) = gradients
        moved = torch.dot(gradient.reshape(-1).to(torch.float32), levels.reshape(-1)) * unit
        return gradient * held, moved.reshape(()), None
