"""Exact differences between two arrays of one dtype, as integers that are small where the values are close."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec.dtypes import FLOATS, bits_of

__all__ = ["difference", "restored"]

Array = npt.NDArray[Any]


def difference(array: Array, base: Array) -> npt.NDArray[np.int64]:
    """How many representable values lie between each element and its base, in the order of floats; int64, modulo 2^64.

    >>> difference(np.float32([1.0, 0.0]), np.float32([1.0, -0.0])).tolist()
    [0, 1]
    """
    steps = _ordered(array) - _ordered(base)
    return steps.view(np.int64).reshape(array.shape + steps.shape[array.ndim :])


def restored(steps: Array, base: Array) -> Array:
    """The array whose :func:`difference` to ``base`` is ``steps``, bit by bit."""
    keys = steps.astype(np.int64).view(np.uint64) + _ordered(base)
    width = bits_of(np.ascontiguousarray(base)).dtype
    if base.dtype.name in FLOATS:
        sign = np.uint64(1 << (8 * width.itemsize - 1))
        mask = np.uint64((1 << 8 * width.itemsize) - 1)
        keys = np.where(keys & sign, keys ^ sign, ~keys & mask)
    return keys.astype(width).view(base.dtype).reshape(base.shape)


def _ordered(array: Array) -> npt.NDArray[np.uint64]:
    """Bits as numbers that grow with the float's value."""
    narrow = bits_of(np.ascontiguousarray(array).reshape(array.shape))
    bits = narrow.astype(np.uint64)
    if array.dtype.name not in FLOATS:
        return bits
    sign = np.uint64(1 << (8 * narrow.itemsize - 1))
    mask = np.uint64((1 << 8 * narrow.itemsize) - 1)
    return np.where(bits & sign, ~bits & mask, bits | sign)
