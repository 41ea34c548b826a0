"""Grid: a set of values that a weight may take, and the two ways between values and integer levels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lissom.codec.tensors import Table, Uniform

__all__ = ["Cast", "Grid", "Tabled", "straight_through"]


@dataclass(frozen=True)
class Cast:
    """Levels are the bits of a shorter float, and decode by an exact cast.

    Args:
        dtype: ``torch.float16`` or ``torch.bfloat16``.
    """

    dtype: torch.dtype


class Grid(nn.Module):
    """A set of values that a weight may take: ``weight → level → value``.

    A grid is the part of a value edit that rounds. Its levels decode exactly: by a float32 table, by
    ``(level - zero_point) * scale`` in float32, or by the cast from a shorter float. So ``values(levels(w))`` has the same
    bits on every machine and is what training, files and archives all hold.

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
    def decoding(self) -> Table | Uniform | Cast:
        """How levels become values."""

    @abstractmethod
    def values(self, levels: Tensor) -> Tensor:
        """The float32 values of ``levels``, bit for bit what :meth:`decoding` gives."""

    def forward(self, weight: Tensor) -> Tensor:
        """The values of the nearest levels; the gradient goes straight through to ``weight``."""
        return straight_through(weight, self.values(self.levels(weight)))


class Tabled(Grid):
    """A grid whose formula gives each level a value of its own, held in a table of at most 2^16.

    A subclass writes :meth:`levels`.

    Args:
        table: float32 [entries]; level i stands for ``table[i]``.
    """

    follows: ClassVar = {"table": ()}
    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.detach().to(torch.float32))

    def values(self, levels: Tensor) -> Tensor:
        """``table[levels]``."""
        return self.table[levels.long()]

    def decoding(self) -> Table:
        """The table as the archive and the exported file hold it."""
        return Table(self.table.cpu().numpy().copy())


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
