"""Cost: multiply-accumulate operations, parameters and bytes, by layer and in total, now or with positions taken out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lissom import edits
from lissom.graph.axes import Atom, kept
from lissom.graph.capture import Graph, Node, capture
from lissom.graph.rules import Axes
from lissom.network import Network

__all__ = ["Cost", "LayerCost", "cost", "layer_costs", "macs", "parameters"]

Keep = Mapping[Atom, npt.NDArray[np.bool_]]
"""Which indices of some atoms stay."""


@dataclass(frozen=True)
class LayerCost:
    """What one module costs by itself, for one sample.

    Args:
        module: Its path; empty for what the network's own code computes.
        operators: The operators that it calls, in order.
        macs: Multiply-accumulate operations.
        parameters: How many parameters its calls read.
        weight_bytes: Their bytes.
        activation_bytes: Bytes of everything that its calls give back.
        shape: Shape of its last result, for the batch of the example inputs.
    """

    module: str
    operators: tuple[str, ...]
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What a network costs, for one sample.

    Args:
        macs: Multiply-accumulate operations.
        parameters: How many parameters it has, tied ones once.
        weight_bytes: Their bytes.
        layers: The same by module, in the order in which they run.
    """

    macs: int
    parameters: int
    weight_bytes: int
    layers: tuple[LayerCost, ...]


def cost(network: Network, graph: Graph | None = None) -> Cost:
    """What ``network`` costs; pass its graph where it is at hand, since capturing takes seconds.

    >>> from torch import nn, zeros
    >>> found = cost(Network(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (zeros(2, 3),)))
    >>> found.macs, found.parameters, [layer.macs for layer in found.layers]
    (20, 26, [12, 8])
    """
    captured = graph or capture(network)
    weights = {name: edits.latent(network.module, name) for name, *_ in set(edits.aliases(network.module).values())}
    return Cost(
        macs=captured.macs,
        parameters=sum(weight.numel() for weight in weights.values()),
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights.values()),
        layers=layer_costs(captured),
    )


def layer_costs(graph: Graph) -> tuple[LayerCost, ...]:
    """The cost of each module whose weight an operator reads, or that calls one without, in the order in which they first run."""
    by_module: dict[str, list[str]] = {}
    for node in graph:
        by_module.setdefault(_holder(node), []).append(node.name)
    nodes = {node.name: node for node in graph}
    found = []
    for module, names in by_module.items():
        calls = [nodes[name] for name in names]
        read = dict.fromkeys(name for call in calls for name in call.parameters)
        found.append(
            LayerCost(
                module=module,
                operators=tuple(call.operator for call in calls),
                macs=sum(call.macs for call in calls),
                parameters=sum(math.prod(graph.shapes[name]) for name in read),
                weight_bytes=sum(math.prod(graph.shapes[name]) * graph.element_bytes[name] for name in read),
                activation_bytes=sum(call.activation_bytes for call in calls),
                shape=calls[-1].shapes[0],
            )
        )
    return tuple(found)


def _holder(node: Node) -> str:
    """The user's name of the module whose weight a call reads; without a weight, of the module that makes the call."""
    return edits.users_name(node.parameters[0]).rpartition(".")[0] if node.parameters else node.module


def macs(graph: Graph, keep: Keep | None = None) -> int:
    """Multiply-accumulate operations for one sample, if only the positions that ``keep`` leaves were computed."""
    total = sum(math.prod(_lengths(axes, keep or {})) for work in graph.work.values() for axes in work)
    return total // graph.batch


def parameters(graph: Graph, keep: Keep | None = None) -> int:
    """How many parameters stay, if only the positions that ``keep`` leaves did; buffers are not counted."""
    return sum(math.prod(_lengths(axes, keep or {})) for name, axes in graph.tensors.items() if name in graph.trainable)


def _lengths(axes: Axes, keep: Keep) -> list[int]:
    return [int(kept(axis, keep).sum()) for axis in axes]
