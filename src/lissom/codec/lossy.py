"""Levels without data: the coarsest uniform grid of a tensor that keeps a signal-to-noise ratio."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.tensors import Quantized, Uniform
from lissom.errors import ModelRefused

__all__ = ["quantized"]


def quantized(name: str, array: npt.NDArray[Any], quality: float) -> Quantized:
    """The tensor on one uniform grid with the largest step whose noise is ``quality`` dB below its power.

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
    power = float((values**2).mean())
    allowed = power / 10 ** (quality / 10)
    low, high = 0.0, 4 * max(allowed, 1e-300) ** 0.5 * 4
    for _ in range(30):
        step = (low + high) / 2
        noise = float(((np.round(values / step) * step - values) ** 2).mean()) if step > 0 else 0.0
        low, high = (step, high) if noise <= allowed else (low, step)
    scale = np.float32(low)
    if scale <= 0 or float(np.abs(values).max()) / float(scale) >= 2**30:
        scale = np.float32(max(float(np.abs(values).max()) / 2**24, 1e-38))
    levels = np.round(values / float(scale)).astype(np.int32)
    return Quantized(levels, Uniform(np.array(scale), np.zeros((), np.int32)), dtype=array.dtype.name)
