"""Grids: the sets of values that weights may take."""

from lissom.grids.affine import Affine
from lissom.grids.base import Cast, Grid, Tabled, straight_through
from lissom.grids.binary import Binary
from lissom.grids.codebook import Codebook
from lissom.grids.double_linear import DoubleLinear
from lissom.grids.fixed_point import FixedPoint
from lissom.grids.half import Half
from lissom.grids.learned_affine import LearnedAffine
from lissom.grids.learnt_step import LearntStep
from lissom.grids.linear import Linear
from lissom.grids.min_max import MinMax
from lissom.grids.nested import NestedScales
from lissom.grids.power_of_two import PowerOfTwo
from lissom.grids.range_mapping import RangeMapping
from lissom.grids.ternary import Ternary

__all__ = [
    "Affine",
    "Binary",
    "Cast",
    "Codebook",
    "DoubleLinear",
    "FixedPoint",
    "Grid",
    "Half",
    "LearnedAffine",
    "LearntStep",
    "Linear",
    "MinMax",
    "NestedScales",
    "PowerOfTwo",
    "RangeMapping",
    "Tabled",
    "Ternary",
    "straight_through",
]
