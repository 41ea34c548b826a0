"""Weight sharing: many weights, few values."""

from lissom.share.weights import ShareWeights

__all__ = ["ShareWeights"]
