"""Scaled: grids whose scale is learned along with the weights."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lissom.grids.base import Grid

__all__ = ["Scaled"]


class Scaled(Grid):
    """A grid with a scale that training moves: ``scale = start * exp(log_ratio)``.

    What is learned is the logarithm (Jain et al., arXiv:1903.08066): one learning rate then means the same relative step for
    every scale, large or small, and no scale can pass through zero, which would turn the sign of every weight under it.

    Args:
        scale: float32, of the weight's axes, each of length 1, of the weight's, or of one entry per group.
    """

    follows: ClassVar = {"start": "all", "log_ratio": "all"}
    start: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", scale.detach().to(torch.float32).clone())
        self.log_ratio = nn.Parameter(torch.zeros_like(self.start))

    @property
    def scale(self) -> Tensor:
        """The scale now, float32; gradients reach ``log_ratio``."""
        return self.start * self.log_ratio.exp()
