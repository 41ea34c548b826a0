"""Fitting: from a weight and what is wanted to a grid, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lissom.grids.affine import Affine

__all__ = ["FITS", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """What a step asks of a grid; each grid takes from it what it knows.

    Args:
        bits: Bits of a level.
        symmetric: Whether zero is in the middle of the levels.
        channel_axis: One scale per position of this axis; None for one scale.
        group: One scale per so many neighbours.
        range: A key of :data:`lissom.grids.ranges.RANGES`.
        rounding: A key of :data:`lissom.grids.rounding.ROUNDINGS`.
    """

    bits: int = 8
    symmetric: bool = True
    channel_axis: int | None = None
    group: int | None = None
    range: str = "minmax"
    rounding: str = "nearest"


def _affine(weight: Tensor, wanted: Wanted) -> Affine:
    return Affine.fit(
        weight,
        bits=wanted.bits,
        symmetric=wanted.symmetric,
        channel_axis=wanted.channel_axis,
        group=wanted.group,
        range=wanted.range,
        rounding=wanted.rounding,
    )


FITS: dict[str, Callable[[Tensor, Wanted], Any]] = {"affine": _affine}
"""Every grid by the name that it has in recipes."""
