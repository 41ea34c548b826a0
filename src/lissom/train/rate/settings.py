"""Rate: how much the archive's bits weigh in training."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

from lissom.errors import UsageError
from lissom.job import value_class

__all__ = ["Rate"]


@value_class
class Rate:
    """Train against the file: ``loss + weight * bits / samples``, with the bits of the weights-only archive.

    Every floating parameter goes on a grid whose step is learnt (:class:`~lissom.grids.LearntStep`); on a codebook or
    another grid, it stays there. With ``max_size`` the weight is steered so that the archive comes out at that size.

    Args:
        weight: What one bit may cost: the rise of the loss summed over the training samples. ``ln 2 = 0.69`` is the
            minimum description length of a log-likelihood; smaller files for less accuracy come with more.
        max_size: Bytes of the weights-only archive to arrive at; ``weight`` is then only where the search for it starts.
        warmup: Share of the run over which the weight rises linearly from zero.
        layers: Multiples of the weight for tensors by glob of their names or of their modules' paths: ``{"fc1*": 2.0}``.
        resolution: Levels in a tensor's root mean square at the start; four times as many in biases and normalisations.
        pace: How much faster steps learn than weights.
        hold: Share of the run, at its end, over which the levels of weights stay as a last rate-distortion choice put
            them, while steps, biases and normalisations train on. Where the learning rate falls to zero anyway there
            was nothing left to choose, and held weights learn less: 0, the default, trains all to the end.

    Example:
        >>> Rate(weight=0.2, max_size=4000).max_size
        4000
    """

    weight: Annotated[float, Gt(0)] = 0.1
    max_size: Annotated[int, Gt(0)] | None = None
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.15
    layers: dict[str, float] = dataclasses.field(default_factory=dict)
    resolution: Annotated[float, Gt(0)] = 1.0
    pace: Annotated[float, Gt(0)] = 4.0
    hold: Annotated[float, Ge(0), Le(0.4)] = 0.0

    def __post_init__(self) -> None:
        negative = {name: factor for name, factor in self.layers.items() if factor < 0}
        if negative:
            raise UsageError(f"Rate: layers holds {negative}; a multiple of the weight is at least 0")
