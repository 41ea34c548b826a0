"""ONNX element types and torch dtypes, and arithmetic on the unsigned types that torch stores without computing on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from onnx import TensorProto
from torch import Tensor

__all__ = ["DTYPES", "NARROW", "STORED_ONLY", "computed_as_int64", "onnx_type"]

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.UINT32: torch.uint32,
    TensorProto.UINT64: torch.uint64,
    TensorProto.BOOL: torch.bool,
}
"""The element types that the reader computes with."""

NARROW: dict[int, tuple[int, int]] = {TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15)}
"""Lowest and highest value of the types of less than a byte, which torch holds one to a byte."""

STORED_ONLY = frozenset({torch.uint16, torch.uint32, torch.uint64})
"""Types that torch can hold and cast, and has few kernels for."""


def onnx_type(dtype: torch.dtype) -> int:
    """The ONNX element type of a torch dtype."""
    return next(element for element, found in DTYPES.items() if found == dtype)


def computed_as_int64(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compute on int64 where an input has a type that torch only stores; the result takes the inputs' type again.

    Sums, differences and products of uint64 wrap to the same bits in int64.
    """

    @wraps(function)
    def compute(*inputs: Tensor, **attributes: object) -> Tensor:
        dtype = inputs[0].dtype
        if dtype not in STORED_ONLY:
            return function(*inputs, **attributes)
        result = function(*(tensor.to(torch.int64) if tensor.dtype in STORED_ONLY else tensor for tensor in inputs), **attributes)
        return result.to(dtype) if result.dtype == torch.int64 else result

    return compute
