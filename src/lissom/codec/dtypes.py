"""The dtypes that an archive can hold, by number, and how a float dtype's bits are divided."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.errors import CorruptArchive, MissingExtra

__all__ = ["DTYPES", "FLOATS", "bits_of", "dtype_named", "number_of"]

DTYPES = (
    "float32", "float16", "bfloat16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float4_e2m1fn", "int4", "uint4", "int2", "uint2",
)  # fmt: skip
"""Their order is part of the format: new ones go to the end."""

FLOATS = {
    "float32": (8, 23),
    "float16": (5, 10),
    "bfloat16": (8, 7),
    "float64": (11, 52),
    "complex64": (8, 23),
    "complex128": (11, 52),
}
"""Exponent and mantissa bits of the dtypes that are coded as floats; a complex number is two of them."""

_HALVES = {"complex64": "float32", "complex128": "float64"}


def number_of(dtype: np.dtype[Any]) -> int:
    """The number that stands for ``dtype`` in an archive.

    Raises:
        KeyError: an archive cannot hold that dtype.
    """
    if dtype.name not in DTYPES:
        raise KeyError(dtype.name)
    return DTYPES.index(dtype.name)


def dtype_named(name: str) -> np.dtype[Any]:
    """The numpy dtype called ``name``; those that numpy lacks come from the package ml_dtypes.

    Raises:
        MissingExtra: ml_dtypes is needed and not installed.
    """
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError as error:
            raise MissingExtra("ml_dtypes", extra="onnx", purpose=f"a tensor of dtype {name}") from error
        if not hasattr(ml_dtypes, name):
            raise CorruptArchive(f"the archive names the dtype {name}, which this version does not know") from None
        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype


def bits_of(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view of the same bytes as unsigned integers; a complex number becomes two along a new last axis."""
    if array.dtype.kind == "c":
        array = array.reshape(-1).view(_HALVES[array.dtype.name]).reshape(*array.shape, 2)
    return array.view(f"u{array.dtype.itemsize}")
