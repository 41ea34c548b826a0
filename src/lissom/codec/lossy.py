"""Levels without data: the grid and the levels of a tensor that take the fewest bits at a squared error."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec import trellis
from lissom.codec.directory import pieces
from lissom.codec.tensors import Quantized, Uniform
from lissom.codec.trellis import MACHINES
from lissom.errors import ModelRefused

__all__ = ["SIDE_BITS", "SIDE_FEW", "prices", "quantized", "rate_distortion_levels", "rounded"]

Values = npt.NDArray[np.float64]
STATES = 64
SLOPE = 0.45  # price of a bit in units of the trellis' step^2: the slope of squared error over bits there
ROUNDS = 3  # of prices from the levels before, and levels at those prices
SIDE_BITS = 8  # of the mantissas of biases and normalisations: their errors, 1/1000 at most, cost less than any weight's
SIDE_FEW = 16  # values below which they stay exact: as the factors and sizes that some graphs compute with
FINE = 0.566  # the trellis' step for the squared error of a scalar grid of step 1


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


def rate_distortion_levels(array: npt.NDArray[Any], step: float, *, states: int = STATES) -> Quantized:
    """The tensor's levels at about the squared error of a grid of ``step``, each chosen by error plus price in bits.

    One ``step`` for every tensor of a network is one slope of squared error over bits for all of them.

    Args:
        array: finite floats.
        step: of a plain grid of that error; the trellis' own is 0.566 of it.
        states: of the trellis; more cost time and give a little less error, 8 nearly all of it.
    """
    scale = np.float32(step * FINE)
    values = array.astype(np.float64).reshape(-1) / float(scale)
    levels = np.round(values).astype(np.int32)
    for _ in range(ROUNDS):
        bits = prices(levels)
        for start, stop in pieces(array.shape):
            trellis.search(values[start:stop], np.ones(1), bits, SLOPE, states, MACHINES[states], 0, levels[start:stop])
    grid = Uniform(np.array(scale), np.zeros((), np.int32))
    return Quantized(levels.reshape(array.shape), grid, dtype=array.dtype.name, trellis=states)


def rounded(name: str, array: npt.NDArray[Any], bits: int = SIDE_BITS) -> npt.NDArray[Any]:
    """Each value to the nearest whose mantissa has so many ``bits``: a grid as fine as the value, so no variance becomes 0.

    The archive codes the bits of mantissas that are in use, so this is all that it takes.

    Args:
        name: of the tensor, for the error.
        array: finite floats; float32 is rounded, of narrower ones every bit stays.
        bits: of the mantissa beside the leading one, 0 to 22.

    Raises:
        ModelRefused: the tensor holds NaN or infinity.

    >>> rounded("running_var", np.float32([1.0009765625, 3.14159274, -1e-20])).tolist()
    [1.0, 3.140625, -1.0005576689441423e-20]
    """
    if not np.isfinite(array.astype(np.float32)).all():
        raise ModelRefused(f"{name} holds NaN or infinity, which no grid can: leave out --quality, or repair the network")
    if array.dtype != np.float32:
        return array
    drop = np.uint32(23 - bits)
    near = ((array.view(np.uint32) + (np.uint32(1) << (drop - np.uint32(1)))) >> drop << drop).view(np.float32)
    return np.where(np.isfinite(near), near, array)


def prices(levels: npt.NDArray[np.int32]) -> Values:
    """Bits of a level [2, magnitudes] by parity and half its magnitude: how often each occurs, smoothed over far ones."""
    most = min(int(np.abs(levels).max(initial=0)) // 2 + 2, 4096)
    bits = np.empty((2, most))
    width = np.maximum(1, np.arange(most) // 8)
    index = np.arange(most)
    upper, lower = np.minimum(index + width, most), np.maximum(index - width + 1, 0)
    for parity in (0, 1):
        own = levels[(levels & 1) == parity]
        counts = np.bincount(np.minimum(np.abs(own) >> 1, most - 1), minlength=most) + 0.02
        total = np.concatenate([[0.0], np.cumsum(counts)])
        smooth = (total[upper] - total[lower]) / (upper - lower)
        bits[parity] = np.log2(smooth.sum() / smooth) + (parity or index > 0)
    return bits
