"""Scales: where a value lies on an axis, and the round values at which the axis is labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale"]


@dataclass(frozen=True)
class Scale:
    """A map from values to pixels, straight or logarithmic.

    Args:
        low: The value at ``start``.
        high: The value at ``stop``.
        start: Pixel of ``low``.
        stop: Pixel of ``high``; less than ``start`` on an axis that goes up.
        log: Whether equal ratios, rather than equal differences, are equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, stop: float, *, may_log: bool = False) -> Scale:
        """A scale that holds all ``values`` with a margin; logarithmic where it may be and they span a factor of 6.

        >>> scale = Scale.around([1.0, 100.0], 0, 100, may_log=True)
        >>> round(scale.at(10.0)), scale.ticks()
        (50, [1.0, 3.0, 10.0, 30.0, 100.0])
        """
        low, high = min(values), max(values)
        if may_log and low > 0 and high / low > 6:
            margin = (high / low) ** 0.08
            return cls(low / margin, high * margin, start, stop, log=True)
        margin = (high - low) * 0.1 or abs(high) * 0.05 or 1.0
        bottom = low - margin
        return cls(max(0.0, bottom) if low >= 0 else bottom, high + margin, start, stop)

    def at(self, value: float) -> float:
        """The pixel of ``value``; values outside the scale go to its nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies within the scale."""
        return self.low <= value <= self.high

    def ticks(self, at_most: int = 6) -> list[float]:
        """Round values within the scale, in order: at least two, unless the scale is a point."""
        if self.log:
            for steps in ((1, 2, 5), (1, 3), (1,)):
                powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
                found = [step * 10.0**power for power in powers for step in steps if self.holds(step * 10.0**power)]
                if 2 <= len(found) <= at_most:
                    return found
        return _even_ticks(self.low, self.high, at_most)


def _even_ticks(low: float, high: float, at_most: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, the finest step that gives no more than ``at_most``."""
    power = 10.0 ** math.floor(math.log10((high - low) / at_most))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if (high - low) / (power * factor) <= at_most - 1)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
