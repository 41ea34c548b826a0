"""Example inputs for a graph: its declared shapes, a batch of two, and short lengths where the file leaves them open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from onnx import GraphProto, ValueInfoProto
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.network import flatten_outputs
from lissom.networks.onnx.operators.dtypes import DTYPES

__all__ = ["NOT_RUN", "Input", "batch_is_fixed", "candidates", "declared_inputs", "dynamic_axes"]

NOT_RUN = (RuntimeError, ValueError, IndexError, TypeError)
"""What torch raises for inputs that a graph cannot take."""

LARGEST_INPUT = 1 << 28
"""Elements; a larger declared input is refused before anything is allocated."""

_LENGTHS = (16, 64, 224, 128, 32, 8, 256, 512, 2, 1)
"""What an open length is tried as, in order: the first that the network runs on."""


@dataclass(frozen=True)
class Input:
    """A declared input.

    Args:
        name: Its name in the file.
        dtype: Its element type.
        shape: A length, or the name of an open one, per axis.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...]


def declared_inputs(graph: GraphProto, names: list[str]) -> tuple[Input, ...]:
    """The graph's inputs in order.

    Raises:
        ModelRefused: an input is no tensor of floats, integers or booleans, or is absurdly large.
    """
    declared = {value.name: value for value in graph.input}
    return tuple(_declared(declared[name]) for name in names)


def _declared(value: ValueInfoProto) -> Input:
    tensor = value.type.tensor_type
    dtype = DTYPES.get(tensor.elem_type) if value.type.HasField("tensor_type") else None
    if dtype is not None and not tensor.shape.dim:
        raise ModelRefused(
            f"input {value.name} is a single number, which is no data: read the file with settings={{{value.name!r}: NUMBER}}"
        )
    if dtype is None:
        raise ModelRefused(f"input {value.name} is no tensor of floats, integers or booleans: lissom cannot feed it")
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        shape.append(dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{value.name}_{axis}")
    elements = 1
    for length in shape:
        elements *= length if isinstance(length, int) else 1
    if elements > LARGEST_INPUT:
        raise ModelRefused(f"input {value.name} is declared with shape {shape}: lissom feeds up to {LARGEST_INPUT:,} elements")
    return Input(value.name, dtype, tuple(shape))


def dynamic_axes(inputs: tuple[Input, ...]) -> dict[str, dict[int, str]]:
    """The open lengths beside the batch, by input and axis, as a ``Network`` names them."""
    batch = batch_name(inputs)
    found = {
        declared.name: {axis: length for axis, length in enumerate(declared.shape) if isinstance(length, str) and length != batch}
        for declared in inputs
    }
    return {name: {axis: length for axis, length in axes.items() if axis > 0} for name, axes in found.items() if axes}


def batch_name(inputs: tuple[Input, ...]) -> str | None:
    """The open length that is the batch: that of the first input's first axis."""
    for declared in inputs:
        if declared.shape and isinstance(declared.shape[0], str):
            return declared.shape[0]
    return None


def candidates(inputs: tuple[Input, ...], seed: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Example inputs to try: one length for all open axes at a time, with a batch of two, and then of one.

    Floats are normal, integers small and not negative (they are mostly ids), booleans true.
    """
    batch = batch_name(inputs)
    open_lengths = {length for declared in inputs for length in declared.shape if isinstance(length, str)} - {batch}
    for samples in (2, 1) if batch else (2,):
        for length in _LENGTHS if open_lengths else _LENGTHS[:1]:
            lengths: Mapping[str, int] = {**dict.fromkeys(open_lengths, length), **({batch: samples} if batch else {})}
            generator = torch.Generator().manual_seed(seed)
            yield tuple(_example(declared, lengths, generator) for declared in inputs)


def batch_is_fixed(module: Callable[..., Any], declared: tuple[Input, ...], inputs: tuple[Tensor, ...]) -> bool:
    """Whether the graph computes with the batch of these inputs only; many files fix it without needing to."""
    if inputs[0].ndim == 0 or (len(inputs[0]) > 1 and batch_name(declared) is not None):
        return False
    try:
        with torch.no_grad():
            once = flatten_outputs(module(*inputs))
            twice = flatten_outputs(module(*(torch.cat([tensor, tensor]) for tensor in inputs)))
    except NOT_RUN:
        return True
    return not all(_is_twice(a, b) for a, b in zip(once, twice, strict=True))


def _is_twice(once: Tensor, twice: Tensor) -> bool:
    if once.ndim == 0 or twice.shape != (2 * once.shape[0], *once.shape[1:]):
        return False
    expected = torch.cat([once, once]).double()
    return bool((twice.double() - expected).abs().max() <= 1e-3 * expected.abs().max().clamp(min=1e-30)) if once.numel() else True


def _example(declared: Input, lengths: Mapping[str, int], generator: torch.Generator) -> Tensor:
    shape = [length if isinstance(length, int) else lengths[length] for length in declared.shape]
    if declared.dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(declared.dtype)
    if declared.dtype == torch.bool:
        return torch.ones(shape, dtype=torch.bool)
    return torch.randint(0, 2, shape, generator=generator).to(declared.dtype)
