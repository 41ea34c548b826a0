"""Factorize: layers become chains of smaller ones, by low-rank factors that fit what the layer really computes."""

from lissom.factorize.layers import Factorize

__all__ = ["Factorize"]
