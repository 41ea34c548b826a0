"""Layer costs: what each layer does to a network's outputs when it alone is computed in integers; where accuracy would go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from lissom.deploy import integers
from lissom.deploy.integer_weights import IntegerTypes, weight_levels
from lissom.deploy.operators import OPERATORS
from lissom.deploy.settings import Ranges
from lissom.deploy.static import TRIED, Static, relative_error

__all__ = ["LayerCost", "best_ranges", "layer_costs"]


@dataclass(frozen=True)
class LayerCost:
    """One layer in integers while all others stay float.

    Args:
        weight: Its weight, by the graph's name.
        values: What it reads, by the graph's names: several where it is called more than once.
        error: Relative squared error of the outputs.
    """

    weight: str
    values: tuple[str, ...]
    error: float


def layer_costs(static: Static, ranges: str, types: str) -> tuple[LayerCost, ...]:
    """Every layer in integers alone, the costliest first; each is found by running the graph on real inputs."""
    steps = static.steps(ranges, types)
    found = [
        LayerCost(weight, tuple(node.input[0] for node in nodes), _alone(static, nodes, steps, types))
        for weight, nodes in _layers(static).items()
    ]
    return tuple(sorted(found, key=lambda cost: -cost.error))


def best_ranges(static: Static, cost: LayerCost, types: str) -> Ranges:
    """The range formula by which a layer in integers alone hurts least."""
    nodes = _layers(static)[cost.weight]
    return min(TRIED, key=lambda kind: _alone(static, nodes, static.steps(kind, types), types))


def _layers(static: Static) -> dict[str, list[NodeProto]]:
    found: dict[str, list[NodeProto]] = {}
    for node in static.made.nodes:
        if OPERATORS[node.op_type].weight is not None:
            found.setdefault(node.input[1], []).append(node)
    return found


def _alone(static: Static, nodes: Sequence[NodeProto], steps: Mapping[str, integers.Steps], types: str) -> float:
    editor, chosen = static.editor.copy(), {id(node) for node in nodes}
    twins = [twin for twin, node in zip(editor.nodes, static.editor.nodes, strict=True) if id(node) in chosen]
    weight, values = twins[0].input[1], list(dict.fromkeys(twin.input[0] for twin in twins))
    if weight not in static.source.quantized:
        bits = 8 if set(values) & set(integers.ends(static.made)) else IntegerTypes.of(types).weight_bits
        rounded = weight_levels(editor, twins[0], weight, bits).dense()
        editor.constants[weight] = rounded.transpose(editor.permutations.get(weight, range(rounded.ndim)))
    own = {value: steps[static.made.shared.get(value, value)] for value in values}
    integers.place(editor, integers.Plan(twins, observed=values), own, symmetric=static.target.symmetric)
    return relative_error(static.answers(editor.open()), static.expected)
