"""Levels without data: the grid and the levels of a tensor that take the fewest bits at a squared error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.tensors import Quantized, Uniform
from lissom.errors import ModelRefused

__all__ = ["quantized", "rate_distortion_levels"]

Values = npt.NDArray[np.float64]
SLOPE = 0.15  # price of a bit in units of step^2: the slope of squared error over bits at the coarse step
TRELLIS_SLOPE = 0.1
TRELLIS_BITS = 1.6  # bits a level from which the trellis pays; below, it would miss the cheap zeros
FINE = 0.566  # the trellis' fine step for the squared error of a scalar grid of step 1


def quantized(name: str, array: npt.NDArray[Any], quality: float) -> Quantized:
    """The tensor on a uniform grid, with noise ``quality`` dB below its power and levels chosen by their price.

    Raises:
        ModelRefused: the tensor holds NaN or infinity.

    >>> weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    >>> noise = quantized("w", weights, 30.0).dense() - weights
    >>> bool((noise**2).mean() <= (weights**2).mean() / 1000)
    True
    """
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise ModelRefused(f"{name} holds NaN or infinity, which no grid can: leave out --quality, or repair the network")
    allowed = float((values**2).mean()) / 10 ** (quality / 10)
    largest = float(np.abs(values).max(initial=0))
    low, high = max(largest / 2**20, 1e-30), max(4 * (12 * allowed) ** 0.5, 2e-30)
    for _ in range(14):
        step = (low * high) ** 0.5
        levels = rate_distortion_levels(array, step)
        error = float(((levels.dense().astype(np.float64) - values) ** 2).mean())
        low, high = (step, high) if error <= allowed else (low, step)
    return rate_distortion_levels(array, low)


def rate_distortion_levels(array: npt.NDArray[Any], step: float) -> Quantized:
    """The tensor's levels at about the squared error of a grid of ``step``, each chosen by error plus price in bits.

    Levels of more than about 1.6 bits follow the trellis on a finer grid, cheaper ones stand on the plain grid. One
    ``step`` for every tensor of a network is one slope of squared error over bits for all of them.
    """
    values = array.astype(np.float64).reshape(-1)
    rates, mean = _rates(np.round(values / step))
    if mean < TRELLIS_BITS:
        scale = np.float32(step)
        return _made(array, _scalar(values / float(scale), rates), scale, trellis=False)
    from lissom.codec import trellis

    scale = np.float32(step * FINE)
    levels = np.empty(values.shape, np.int32)
    coarse, _ = _rates(np.round(values / (2 * float(scale))))
    fine = np.interp(np.arange(2 * len(coarse)) / 2, np.arange(len(coarse)), coarse)
    trellis.search(values / float(scale), fine, TRELLIS_SLOPE * 4, levels)
    return _made(array, levels, scale, trellis=True)


def _made(array: npt.NDArray[Any], levels: npt.NDArray[Any], scale: np.float32, *, trellis: bool) -> Quantized:
    grid = Uniform(np.array(scale), np.zeros((), np.int32))
    return Quantized(levels.astype(np.int32).reshape(array.shape), grid, dtype=array.dtype.name, trellis=trellis)


def _rates(levels: Values) -> tuple[Values, float]:
    """Bits of a level by magnitude, from how often each occurs and smoothed towards a falling tail; and their mean."""
    magnitudes = np.minimum(np.abs(levels), 4095).astype(np.int64)
    counts = np.bincount(magnitudes, minlength=int(magnitudes.max(initial=0)) + 2).astype(np.float64)
    width = np.maximum(1, np.arange(len(counts)) // 8)  # far levels share their neighbours' counts
    total = np.concatenate([[0.0], np.cumsum(counts)])
    index = np.arange(len(counts))
    upper, lower = np.minimum(index + width, len(counts)), np.maximum(index - width + 1, 0)
    smooth = np.where(index < 3, counts, (total[upper] - total[lower]) / (upper - lower)) + 0.02
    bits = -np.log2(smooth / max(counts.sum(), 1.0)) + (index > 0)
    return bits, float(bits[magnitudes].mean()) if magnitudes.size else 0.0


def _scalar(values: Values, rates: Values) -> Values:
    """Each value's nearest level, or the next towards zero where its fewer bits are worth the error."""
    nearest = np.round(values)
    smaller = nearest - np.sign(nearest)

    def price(levels: Values) -> Values:
        magnitude = np.minimum(np.abs(levels), len(rates) - 1).astype(np.int64)
        cost: Values = (values - levels) ** 2 + SLOPE * rates[magnitude]
        return cost

    return np.where(price(smaller) < price(nearest), smaller, nearest)
