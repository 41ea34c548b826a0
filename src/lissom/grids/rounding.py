"""Rounding: from real numbers to whole ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ROUNDINGS", "down", "stochastic"]


def stochastic(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Up with the probability of the fraction, else down, so that the expectation is ``x`` (Gupta et al., arXiv:1502.02551).

    >>> stochastic(torch.tensor([2.0, -1.0])).tolist()
    [2.0, -1.0]
    """
    return torch.floor(x + torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype))


def down(x: Tensor) -> Tensor:
    """The whole number below, but for what division left a few units in the last place below a whole number.

    Without that, a value on the grid would fall to the level beneath each time it is rounded again.

    >>> down(torch.tensor([1.9, -0.1, 3.0 - 2e-7])).tolist()
    [1.0, -1.0, 3.0]
    """
    nearest = torch.round(x)
    return torch.where((x - nearest).abs() <= 5e-7 * nearest.abs().clamp(min=1), nearest, torch.floor(x))


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"nearest": torch.round, "floor": down}
"""Roundings that give the same level for the same weight every time: to nearest, ties to even, and down."""
