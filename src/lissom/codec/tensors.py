"""What the archive stores: plain arrays, and arrays of integer levels with the exact way back to floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Quantized", "Table", "Uniform"]


@dataclass(frozen=True, eq=False)
class Table:
    """Levels decode by looking them up: ``values[level]``.

    Args:
        values: float32 [entries], at most 2^16 of them; level i stands for ``values[i]``.
    """

    values: npt.NDArray[np.float32]

    def decode(self, levels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The float32 values of ``levels``; every zero is +0.0."""
        return (self.values + np.float32(0))[levels]


@dataclass(frozen=True, eq=False)
class Uniform:
    """Levels decode by ``(level - zero_point) * scale`` in float32, whatever the machine.

    Args:
        scale: float32, of the shape of the levels with every axis reduced to the number of scales along it:
            ``()`` for one scale per tensor; ``[out, 1, 1, 1]`` for one per output channel of a convolution;
            ``[out, in / n]`` for groups of n along the last axis of a linear layer. A scale of k entries along an
            axis of length m stands for blocks of ``ceil(m / k)`` positions.
        zero_point: int32, of the same shape as ``scale``.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]

    def decode(self, levels: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The float32 values of ``levels``; every zero is +0.0."""
        offset = levels - spread(self.zero_point, levels.shape) if self.zero_point.any() else levels
        values: npt.NDArray[np.float32] = offset.astype(np.float32)
        values *= spread(self.scale, levels.shape)
        if not (self.scale > 0).all():  # where all are, only a level of 0 gives a zero, and +0.0
            values += np.float32(0)
        return values


def spread(parameter: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Repeat a per-tensor, per-channel or per-group parameter until it broadcasts against ``shape``.

    >>> spread(np.array([[1, 2]]), (3, 4)).tolist()
    [[1, 1, 2, 2]]
    """
    spread_out = parameter
    for axis, (entries, length) in enumerate(zip(parameter.shape, shape, strict=False)):
        if entries not in (1, length):
            spread_out = np.repeat(spread_out, -(-length // entries), axis=axis)
            spread_out = spread_out.take(np.arange(length), axis=axis)
    return spread_out


@dataclass(frozen=True, eq=False)
class Quantized:
    """One tensor as integer levels, the decoding that gives its values back, and an optional mask.

    Args:
        levels: int32 of the tensor's shape.
        decoding: :class:`Table` or :class:`Uniform`.
        mask: bool of the tensor's shape, False where the value is exactly +0.0 whatever its level; None where
            nothing is masked. Levels under a False are not stored and come back as 0. It is only needed
            where the decoding has no exact zero.
        dtype: numpy name of the dtype that the values are handed back in (``"float32"``, ``"float16"``).
        trellis: the number of states of the machine of :mod:`lissom.codec.trellis` that the levels of each of
            :func:`lissom.codec.directory.pieces` follow, in C order or with the first two axes exchanged; 0 for no
            trellis. Only with :class:`Uniform`, zero point 0 and no mask.

    Example:
        >>> q = Quantized(np.array([[0, 2], [1, 0]], np.int32), Table(np.float32([0, 0.5, -1])))
        >>> q.dense().tolist()
        [[0.0, -1.0], [0.5, 0.0]]
    """

    levels: npt.NDArray[np.int32]
    decoding: Table | Uniform
    mask: npt.NDArray[np.bool_] | None = None
    dtype: str = "float32"
    trellis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.levels.shape

    def dense(self) -> npt.NDArray[np.generic]:
        """The values, decoded exactly; every zero is +0.0."""
        values = self.decoding.decode(self.levels)
        if self.mask is not None:
            values = np.where(self.mask, values, np.float32(0))
        return np.asarray(values).astype(self.dtype, copy=False)
