"""Grids: the sets of values that weights may take."""

from lissom.grids.affine import Affine
from lissom.grids.base import Grid, straight_through
from lissom.grids.codebook import Codebook

__all__ = ["Affine", "Codebook", "Grid", "straight_through"]
