"""Training against the file: the archive's bits in the loss."""

from lissom.train.rate.prior import Prior
from lissom.train.rate.settings import Rate
from lissom.train.rate.term import RateTerm

__all__ = ["Prior", "Rate", "RateTerm"]
