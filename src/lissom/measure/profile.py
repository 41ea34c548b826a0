"""Profile: the time of a file in ONNX Runtime, by the layer that each node's weight belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto

from lissom import edits
from lissom.runtimes.onnxruntime import profile_onnxruntime

__all__ = ["layer_seconds"]

CALLS = 40


def layer_seconds(
    file: Path | bytes, inputs: Sequence[npt.NDArray[Any]], layers: Mapping[str, Iterable[str]], *, threads: int = 1
) -> dict[str, float]:
    """Seconds of one call that each layer takes in ONNX Runtime, with what follows it up to the next layer.

    The nodes of a copy of the file are named after their layers, so that whatever the runtime makes of them (it fuses an
    activation into its convolution) is still known; what the runtime adds of its own belongs to no layer.

    Args:
        file: An ONNX file, or its bytes.
        inputs: One array per input, the batch first.
        layers: The user's names of each layer's tensors, or of modules that hold them.
        threads: How many threads a call may use.
    """
    model = onnx.load_from_string(file) if isinstance(file, bytes) else onnx.load(file)
    names = list(layers)
    owners = {tensor: number for number, layer in enumerate(names) for tensor in layers[layer]}
    of_value = _name_nodes(model, owners)
    taken: dict[str, float] = {}
    for node, seconds in profile_onnxruntime(model.SerializeToString(), inputs, threads=threads, calls=CALLS).items():
        match = re.search(r"(?:^|[ /])(\d+)#", node)  # "fused 3#7"
        # A convolution in blocks of channels is called after the value that it gives.
        number = int(match[1]) if match else of_value.get(node.removesuffix("_nchwc"))
        if number is not None:
            taken[names[number]] = taken.get(names[number], 0.0) + _typical(seconds)
    return taken


def _typical(seconds: Sequence[float]) -> float:
    """The mean of the faster half: a profile counts whole microseconds, and a busy machine adds to some of them."""
    return float(np.sort(seconds)[: max(1, len(seconds) // 2)].mean())


def _name_nodes(model: ModelProto, owners: Mapping[str, int]) -> dict[str, int]:
    """Name each node ``layer#number``; a node without weights goes with the node that gives its first input.

    Returns:
        The layer of each value.
    """
    of_value = {tensor.name: owner for tensor in model.graph.initializer if (owner := _owner(tensor.name, owners)) is not None}
    weights, constants = set(of_value), {"", *(tensor.name for tensor in model.graph.initializer)}
    for number, node in enumerate(model.graph.node):
        owner = _of_node(node, of_value, weights)
        node.name = f"{'' if owner is None else owner}#{number}"
        if owner is not None:
            of_value.update(dict.fromkeys(node.output, owner))
            if constants.issuperset(node.input):
                constants.update(node.output)
                weights.update(node.output)  # a dequantized weight still is one
    return of_value


def _of_node(node: NodeProto, of_value: Mapping[str, int], weights: set[str]) -> int | None:
    own = [of_value[name] for name in node.input if name in weights]
    given = [of_value[name] for name in node.input if name in of_value]
    return next(iter(own or given), None)


def _owner(initializer: str, owners: Mapping[str, int]) -> int | None:
    """The layer of a constant: of its tensor, or of the tensor whose levels, scale or table it is."""
    name = edits.users_name(initializer)
    while name not in owners and "." in name:
        name = name.rpartition(".")[0]
    return owners.get(name)
