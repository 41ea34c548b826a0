"""Grid: a set of values that a weight may take, and the two ways between values and integer levels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lissom.codec.tensors import Table, Uniform

__all__ = ["Grid", "straight_through"]


class Grid(nn.Module):
    """A set of values that a weight may take: ``weight → level → value``.

    A grid is the part of a value edit that rounds. Its levels decode in one of two exact ways, by a float32 table
    or by ``(level - zero_point) * scale`` in float32, so ``values(levels(w))`` has the same bits on every machine
    and is what training, files and archives all hold.

    A subclass sets ``follows`` and writes :meth:`levels` and :meth:`decoding`; where :meth:`forward` needs
    gradients of its own (a trained codebook, learnt steps), that too.
    """

    follows: ClassVar[Mapping[str, tuple[int, ...] | str]] = {}
    """For each state tensor, the axes of the weight that its own axes follow: ``"all"``, or one axis number for each
    of its axes; an axis of length 1 follows nothing. A structure edit slices the state along with the weight."""

    @abstractmethod
    def levels(self, weight: Tensor) -> Tensor:
        """The level of each weight: int32 of the weight's shape."""

    @abstractmethod
    def decoding(self) -> Table | Uniform:
        """How levels become values."""

    @abstractmethod
    def values(self, levels: Tensor) -> Tensor:
        """The float32 values of ``levels``, bit for bit what :meth:`decoding` gives."""

    def forward(self, weight: Tensor) -> Tensor:
        """The values of the nearest levels; the gradient goes straight through to ``weight``."""
        return straight_through(weight, self.values(self.levels(weight)))


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, _weight: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(weight: Tensor, value: Tensor) -> Tensor:
    """``value`` in the forward pass, the identity on ``weight`` in the backward pass (Bengio et al., arXiv:1308.3432).

    ``weight + (value - weight).detach()`` would lose the last bits of the value to rounding; this keeps them all.
    """
    result: Tensor = _StraightThrough.apply(weight, value.detach())  # type: ignore[no-untyped-call]
    return result
