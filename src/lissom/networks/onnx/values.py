"""Values that are known without data: constants and shapes, kept as Python numbers so that lengths stay symbolic.

A graph computes with two kinds of value. A tensor is data. A :class:`Known` holds Python integers, floats or
booleans, or torch's symbolic ones while a network is exported: shapes go through ``Shape``, ``Gather``, ``Concat``
and ``Reshape`` without ever becoming a tensor, which is what keeps the batch and the lengths dynamic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["LARGEST_KNOWN", "Known", "Value", "as_known", "as_tensor", "largest_of"]

LARGEST_KNOWN = 4096
"""Elements; a longer constant is always a tensor."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A small tensor whose values are known without data.

    Args:
        array: Python numbers (or symbolic ones) in an array of objects, of the tensor's shape.
        dtype: The dtype that it has as a tensor.

    Example:
        >>> Known.of([2, 3]).tensor()
        tensor([2, 3])
    """

    array: npt.NDArray[np.object_]
    dtype: torch.dtype

    @classmethod
    def of(cls, values: Any, dtype: torch.dtype = torch.int64) -> Known:
        """A known value from nested lists of numbers."""
        if isinstance(values, np.ndarray):
            return cls(values.astype(object), dtype)
        flat, shape = _flatten(values)
        array = np.empty(len(flat), dtype=object)
        array[:] = flat  # element by element: numpy must not look into a symbolic integer
        return cls(array.reshape(shape), dtype)

    def list(self) -> list[Any]:
        """The values as a flat list."""
        return self.array.ravel().tolist()

    def item(self) -> Any:
        """The only value."""
        return self.array.ravel()[0]

    def tensor(self) -> Tensor:
        """The same values as a tensor on torch's default device."""
        values = self.list()
        if any(isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) for value in values):
            scalars = [torch.scalar_tensor(value, dtype=self.dtype) for value in values]
            return torch.stack(scalars).reshape(self.array.shape)
        return torch.tensor(values, dtype=self.dtype).reshape(self.array.shape)


Value = Tensor | Known


def largest_of(a: Any, b: Any) -> Any:
    """The larger of two numbers, symbolic or not."""
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def _flatten(values: Any) -> tuple[list[Any], tuple[int, ...]]:
    if not isinstance(values, (list, tuple)):
        return [values], ()
    parts = [_flatten(value) for value in values]
    shape = parts[0][1] if parts else ()
    return [leaf for part, _ in parts for leaf in part], (len(values), *shape)


def as_known(value: Value) -> Known:
    """The value as Python numbers; reads the tensor, where it is one."""
    return value if isinstance(value, Known) else Known.of(value.tolist(), value.dtype)


def as_tensor(value: Value) -> Tensor:
    """The value as a tensor."""
    return value.tensor() if isinstance(value, Known) else value
