"""Fitting: from a weight and what is wanted to a grid, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.grids.affine import Affine
from lissom.grids.base import Grid
from lissom.grids.binary import Binary
from lissom.grids.double_linear import DoubleLinear
from lissom.grids.fixed_point import FixedPoint
from lissom.grids.half import Half
from lissom.grids.learned_affine import LearnedAffine
from lissom.grids.linear import Linear
from lissom.grids.min_max import MinMax
from lissom.grids.nested import NestedScales
from lissom.grids.power_of_two import PowerOfTwo
from lissom.grids.range_mapping import RangeMapping
from lissom.grids.ternary import Ternary

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


def _learned(weight: Tensor, wanted: Wanted) -> LearnedAffine:
    return LearnedAffine.fit(weight, bits=wanted.bits, channel_axis=wanted.channel_axis, group=wanted.group, range=wanted.range)


def _range_mapping(weight: Tensor, wanted: Wanted) -> RangeMapping:
    """Onto the signed integers of so many bits."""
    return RangeMapping.fit(weight, onto=(-(2 ** (wanted.bits - 1)), 2 ** (wanted.bits - 1) - 1))


def _nested(weight: Tensor, wanted: Wanted) -> NestedScales:
    return NestedScales.fit(weight, bits=wanted.bits, channel_axis=wanted.channel_axis, group=wanted.group or 32)


FITS: dict[str, Callable[[Tensor, Wanted], Grid]] = {
    "affine": _affine,
    "learned-affine": _learned,
    "linear": lambda weight, wanted: Linear.fit(weight, bits=wanted.bits, rounding=wanted.rounding),
    "min-max": lambda weight, wanted: MinMax.fit(weight, bits=wanted.bits),
    "range-mapping": _range_mapping,
    "fixed-point": lambda weight, wanted: FixedPoint.fit(weight, bits=wanted.bits),
    "double-linear": lambda weight, wanted: DoubleLinear.fit(weight, bits=wanted.bits),
    "nested-scales": _nested,
    "power-of-two": lambda weight, wanted: PowerOfTwo.fit(weight, bits=wanted.bits),
    "binary": lambda weight, wanted: Binary.fit(weight, channel_axis=wanted.channel_axis, group=wanted.group),
    "ternary": lambda weight, wanted: Ternary.fit(weight, channel_axis=wanted.channel_axis, group=wanted.group),
    "float16": lambda weight, _: Half.fit(weight, dtype=torch.float16),
    "bfloat16": lambda weight, _: Half.fit(weight, dtype=torch.bfloat16),
}
"""Every grid by the name that it has in recipes."""
