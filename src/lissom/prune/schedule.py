"""Schedules: how sparsity rises while a network trains."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from lissom.errors import UsageError
from lissom.job import value_class

__all__ = ["PolynomialDecay"]


@value_class
class PolynomialDecay:
    """Sparsity from ``initial`` to ``final`` along ``final + (initial - final) * (1 - t)^power`` (arXiv:1710.01878).

    ``t`` runs from 0 at ``begin`` to 1 at ``end``, both as shares of the training: many weights go while the network can
    still recover, few at the end.

    Args:
        initial: Sparsity at ``begin``.
        final: Sparsity from ``end`` on.
        begin: Share of the training before which nothing is removed.
        end: Share of the training from which nothing more is removed.
        power: 1 rises evenly, 3 fast at first.
        updates: In how many moves of equal time the sparsity rises.

    Example:
        >>> decay = PolynomialDecay(final=0.8, begin=0.0, end=0.5)
        >>> [round(decay.sparsity(progress), 2) for progress in (0.0, 0.25, 0.5, 1.0)]
        [0.0, 0.7, 0.8, 0.8]
    """

    initial: Annotated[float, Ge(0), Lt(1)] = 0.0
    final: Annotated[float, Ge(0), Lt(1)] = 0.9
    begin: Annotated[float, Ge(0), Lt(1)] = 0.0
    end: Annotated[float, Ge(0), Le(1)] = 0.75
    power: Annotated[float, Ge(0)] = 3.0
    updates: Annotated[int, Ge(1)] = 64

    def __post_init__(self) -> None:
        if self.final < self.initial:
            raise UsageError(f"PolynomialDecay: final is {self.final}, below initial {self.initial}: masks only grow")
        if self.end <= self.begin:
            raise UsageError(f"PolynomialDecay: end is {self.end}; it must come after begin {self.begin}")

    def sparsity(self, progress: float) -> float:
        """The sparsity at ``progress`` in [0, 1]; 0 before ``begin``."""
        if progress < self.begin:
            return 0.0
        time = min(1.0, (progress - self.begin) / (self.end - self.begin))
        time = int(time * self.updates + 1e-9) / self.updates
        return float(self.final + (self.initial - self.final) * (1 - time) ** self.power)
