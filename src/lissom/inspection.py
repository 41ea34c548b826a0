"""inspect(): what is in a network, what can be made smaller, and what cannot and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lissom import edits
from lissom.codec.dtypes import dtype_named
from lissom.codec.tensors import Quantized
from lissom.errors import ModelRefused
from lissom.graph.capture import Graph, capture
from lissom.graph.cost import LayerCost, cost
from lissom.graph.groups import fixed_axes, groups, reachable
from lissom.network import Network
from lissom.quantize.sensitivity import LayerError, sensitivities
from lissom.weights_files import read_weights

__all__ = ["Inspection", "LayerFacts", "inspect", "inspect_weights"]


WIDTHS = (8, 4)
"""Bits that each layer is quantized to alone."""


@dataclass(frozen=True)
class LayerFacts:
    """One parameter tensor.

    Args:
        name: Its name in the state dict.
        kind: Class of the module that holds it.
        shape: Its shape.
        parameters: How many numbers.
        bytes: Bytes in its own dtype.
        sparsity: Share of exact zeros.
        grid: What its values are restricted to; empty for anything.
        macs: Multiply-accumulates for one sample of the module that holds it; None where the graph is not known.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    bytes: int
    sparsity: float
    grid: str
    macs: int | None


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect` found.

    Args:
        model: What was looked at.
        inputs: Shape of each input, by name.
        parameters: How many, tied ones once.
        macs: For one sample; None where the graph cannot be captured.
        layers: Every parameter tensor.
        groups: Coupled channels: name, size, and the axes that change together.
        prunable: Share of the parameters that stand in a coupled group.
        fixed: Axes from which nothing can be removed, and why.
        unknown: Operators that no rule follows; what touches them is left alone.
        notes: Everything else worth knowing.
        quantization: What 8 and 4 bits do to each layer alone, the worst for the outputs first; empty where no inputs were
            given.
    """

    model: str
    inputs: dict[str, tuple[int, ...]]
    parameters: int
    macs: int | None
    layers: tuple[LayerFacts, ...]
    groups: tuple[dict[str, Any], ...]
    prunable: float
    fixed: tuple[dict[str, Any], ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    quantization: tuple[LayerError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "layers": [vars(layer) for layer in self.layers],
            "quantization": [vars(entry) for entry in self.quantization],
        }


def inspect(network: Network, inputs: Sequence[tuple[Tensor, ...]] = ()) -> Inspection:
    """Look at a network without changing it.

    Args:
        network: The network.
        inputs: Batches of real inputs, on which each layer is quantized alone to see where accuracy would go; none for not.

    Example:
        >>> from torch import nn, zeros
        >>> found = inspect(Network(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (zeros(2, 3),)))
        >>> found.parameters, found.macs, found.prunable
        (26, 20, 0.9230769230769231)
    """
    notes = list(network.notes)
    graph: Graph | None = None
    try:
        graph = capture(network)
    except ModelRefused as error:
        notes.append(f"{error}. Weights can still be pruned, shared, quantized and packed")
    by_module = {} if graph is None else {layer.module: layer for layer in cost(network, graph).layers}
    found = () if graph is None else groups(graph)
    return Inspection(
        model=network.source.location or type(network.module).__name__,
        inputs={name: tuple(tensor.shape[1:]) for name, tensor in zip(network.input_names, network.example_inputs, strict=True)},
        parameters=sum(parameter.numel() for _, parameter in edits.weights(network.module)),
        macs=None if graph is None else graph.macs,
        layers=tuple(_layers(network, by_module)),
        groups=tuple(
            {
                "name": group.name,
                "size": group.size,
                "members": [f"{member.tensor}[{member.axis}]" for member in group.members],
                "ties": list(group.ties),
            }
            for group in found
        ),
        prunable=0.0 if graph is None else reachable(graph, found),
        fixed=()
        if graph is None
        else tuple({"tensor": f"{fixed.tensor}[{fixed.axis}]", "why": fixed.why} for fixed in fixed_axes(graph)),
        unknown=() if graph is None else graph.unknown,
        notes=tuple(notes),
        quantization=_worst_first(sensitivities(network, inputs, bits=WIDTHS)) if inputs else (),
    )


def inspect_weights(path: Path) -> Inspection:
    """Look at a file of weights that holds no network: a layer for each tensor, its kind how it is stored.

    Args:
        path: A ``.safetensors``, ``.pt``, ``.pth`` or ``.lissom`` file.

    Raises:
        ModelRefused: The file cannot be read as weights.
        CorruptArchive: The archive is damaged.

    Example:
        >>> import tempfile
        >>> from lissom.codec import encode
        >>> path = Path(tempfile.mkdtemp(), "weights.lissom")
        >>> _ = path.write_bytes(encode({"a": np.eye(3, dtype=np.float32)}))
        >>> [(layer.name, layer.kind, layer.shape, layer.bytes) for layer in inspect_weights(path).layers]
        [('a', 'float32', (3, 3), 36)]
    """
    weights = read_weights(path, graph=False)
    layers = tuple(_stored(name, tensor) for name, tensor in weights.tensors.items())
    dense = sum(layer.bytes for layer in layers)
    note = f"{path.stat().st_size:,} bytes hold {len(layers)} tensors of {dense:,} bytes, and no network"
    return Inspection(
        model=str(path),
        inputs={},
        parameters=sum(layer.parameters for layer in layers),
        macs=None,
        layers=layers,
        groups=(),
        prunable=0.0,
        fixed=(),
        unknown=(),
        notes=(note,),
    )


def _stored(name: str, tensor: Any) -> LayerFacts:
    quantized = isinstance(tensor, Quantized)
    dtype = dtype_named(tensor.dtype) if quantized else tensor.dtype
    values = tensor.dense() if quantized else tensor
    count = int(np.prod(tensor.shape, dtype=np.int64))
    return LayerFacts(
        name=name,
        kind=dtype.name,
        shape=tuple(tensor.shape),
        parameters=count,
        bytes=count * dtype.itemsize,
        sparsity=1 - np.count_nonzero(values) / count if count else 0.0,
        grid=f"{type(tensor.decoding).__name__.lower()}{' on a trellis' if tensor.trellis else ''}" if quantized else "",
        macs=None,
    )


def _worst_first(found: tuple[LayerError, ...]) -> tuple[LayerError, ...]:
    worst: dict[str, float] = {}
    for entry in found:
        worst[entry.name] = max(worst.get(entry.name, 0.0), entry.output_error)
    return tuple(sorted(found, key=lambda entry: (-worst[entry.name], entry.name, -entry.bits)))


def _layers(network: Network, by_module: dict[str, LayerCost]) -> list[LayerFacts]:
    stored = edits.tensors(network.module)
    facts = []
    for name, parameter in edits.weights(network.module):
        holder = name.rpartition(".")[0]
        layer = by_module.get(edits.users_name(name).rpartition(".")[0])
        tensor = stored[name]
        edit = edits.edit_of(network.module, name)
        values = edits.value(network.module, name)
        facts.append(
            LayerFacts(
                name=name,
                kind=type(network.module.get_submodule(holder)).__name__.removeprefix("Parametrized"),
                shape=tuple(parameter.shape),
                parameters=parameter.numel(),
                bytes=parameter.numel() * parameter.element_size(),
                sparsity=float((values == 0).float().mean()) if parameter.numel() else 0.0,
                grid=type(edit.grid).__name__ if isinstance(tensor, Quantized) and edit is not None else "",
                macs=layer.macs if layer is not None and parameter.ndim > 1 else None,
            )
        )
    return facts
