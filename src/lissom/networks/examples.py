"""Example inputs for a module whose shapes nobody has told yet: from ``--input``, from the module, or from the data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom.data import example_inputs
from lissom.errors import ModelRefused, UsageError
from lissom.network import Preprocess, forward_names

__all__ = ["InputShape", "find_example_inputs", "from_shape"]

InputShape = str | Sequence[int]
"""The shape of one sample, without the batch: ``"1x28x28"``, ``"128:int64"`` or ``(1, 28, 28)``."""

BATCH = 2
DTYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
}


def find_example_inputs(
    module: nn.Module, *, input_shapes: Sequence[InputShape] | None = None, data: Any = None, preprocess: Preprocess | None = None
) -> tuple[Tensor, ...]:
    """One tensor per input, of the shapes given, else the module's own ``example_inputs``, else two samples of the data.

    Args:
        module: The network.
        input_shapes: One shape per input, without the batch.
        data: Any data that :func:`lissom.data.load_data` takes.
        preprocess: How the network takes uint8 images of the data.

    Raises:
        UsageError: a shape is not written as one.
        ModelRefused: there is nothing to find them in.
    """
    if input_shapes:
        return tuple(from_shape(shape) for shape in input_shapes)
    own = getattr(module, "example_inputs", None)
    if callable(own):
        own = own()
    if own is not None:
        inputs = (own,) if isinstance(own, Tensor) else tuple(own)
        if not all(isinstance(tensor, Tensor) for tensor in inputs):
            raise ModelRefused(f"example_inputs of {type(module).__name__} must be tensors, one per input")
        return inputs
    if data is not None:
        return example_inputs(data, forward_names(module), preprocess)
    raise ModelRefused(
        f"nothing says what {type(module).__name__} takes: give the shape of a sample for each input (--input 1x28x28), data, "
        "or set example_inputs on the module"
    )


def from_shape(shape: InputShape) -> Tensor:
    """A batch of two samples of this shape: standard normal floats (always the same), or zeros, which are valid indices.

    Raises:
        UsageError: the text is no shape.

    >>> from_shape("3x8x8").shape, from_shape("16:int64").dtype
    (torch.Size([2, 3, 8, 8]), torch.int64)
    """
    text = shape if isinstance(shape, str) else "x".join(map(str, shape))
    lengths, _, name = text.replace(" ", "").replace(",", "x").partition(":")
    if not re.fullmatch(r"([1-9]\d*(x[1-9]\d*)*)?", lengths) or (name and name not in DTYPES):
        raise UsageError(
            f"input shape {text!r}: write the lengths of one sample, without the batch, such as 1x28x28, or 128:int64 "
            f"(dtypes: {', '.join(DTYPES)})"
        )
    full = (BATCH, *(int(length) for length in lengths.split("x") if length))
    dtype = DTYPES[name or "float32"]
    if not dtype.is_floating_point:
        return torch.zeros(full, dtype=dtype)
    return torch.randn(full, generator=torch.Generator().manual_seed(0)).to(dtype)
