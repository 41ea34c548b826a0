"""Rounding: from real numbers to whole ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ROUNDINGS", "stochastic"]


def stochastic(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Up with the probability of the fraction, else down, so that the expectation is ``x`` (Gupta et al., arXiv:1502.02551).

    >>> stochastic(torch.tensor([2.0, -1.0])).tolist()
    [2.0, -1.0]
    """
    return torch.floor(x + torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype))


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"nearest": torch.round, "floor": torch.floor}
"""Roundings that give the same level for the same weight every time: to nearest, ties to even, and down."""
