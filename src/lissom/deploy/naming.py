"""Names of nodes and values by one rule, so that a file has stable names and an archive need not hold them.

A node is named after its operator and its number among the nodes of that operator (``conv_0``); its outputs are named
after the node (``conv_0``, further ones ``conv_0.1``). Inputs and outputs of the graph, and constants, keep theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import AttributeProto, GraphProto, ModelProto

__all__ = ["lengthen", "name_by_rule", "shorten"]

MARK = "\x7f"
"""Comes before the number of a value in the compact form; no name of lissom's starts with it."""


def name_by_rule(model: ModelProto, fixed: set[str] | None = None) -> dict[str, str]:
    """Name nodes and values by the rule, in place; new name → old name of each value that changed.

    Args:
        model: Its nodes are in order.
        fixed: Names of values that stay.
    """
    graph = model.graph
    kept = {value.name for value in [*graph.input, *graph.output]} | {tensor.name for tensor in graph.initializer}
    kept |= fixed or set()
    renamed: dict[str, str] = {}
    taken = set(kept)
    for node, name in zip(graph.node, _node_names(graph), strict=True):
        node.name = name
        for position, output in enumerate(node.output):
            if output and output not in kept:
                wanted = _value_name(name, position)
                while wanted in taken:
                    wanted += "_"
                taken.add(wanted)
                renamed[output] = wanted
    _rename(graph, renamed)
    return {new: old for old, new in renamed.items()}


def shorten(model: ModelProto) -> ModelProto | None:
    """The same model without the names that follow the rule; None where there are subgraphs or marks in the way."""
    if any(
        attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        for node in model.graph.node
        for attribute in node.attribute
    ):
        return None
    short = ModelProto()
    short.CopyFrom(model)
    graph = short.graph
    kept = {value.name for value in [*graph.input, *graph.output]} | {tensor.name for tensor in graph.initializer}
    numbers: dict[str, str] = {}
    for index, (node, name) in enumerate(zip(graph.node, _node_names(graph), strict=True)):
        if node.name != name or any(text.startswith(MARK) for text in node.output):
            return None
        node.ClearField("name")
        for position, output in enumerate(node.output):
            if output and output == _value_name(name, position) and output not in kept:
                numbers[output] = f"{MARK}{index}" + (f".{position}" if position else "")
    # Constants are numbered too, in the order in which they stand.
    for index, tensor in enumerate(graph.initializer):
        numbers[tensor.name] = f"{MARK}c{index}"
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = numbers.get(name, name)
        for position, name in enumerate(node.output):
            if name in numbers:
                node.output[position] = MARK
    return short


def lengthen(model: ModelProto) -> None:
    """Put the names back that :func:`shorten` left out, in place."""
    graph = model.graph
    names: dict[str, str] = {f"{MARK}c{index}": tensor.name for index, tensor in enumerate(graph.initializer)}
    for index, (node, name) in enumerate(zip(graph.node, _node_names(graph), strict=True)):
        node.name = name
        for position, output in enumerate(node.output):
            if output == MARK:
                node.output[position] = _value_name(name, position)
                names[f"{MARK}{index}" + (f".{position}" if position else "")] = node.output[position]
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)


def _node_names(graph: GraphProto) -> list[str]:
    count: Counter[str] = Counter()
    names = []
    for node in graph.node:
        kind = node.op_type.lower()
        names.append(f"{kind}_{count[kind]}")
        count[kind] += 1
    return names


def _value_name(node: str, position: int) -> str:
    return f"{node}.{position}" if position else node


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for field in (node.input, node.output):
            for position, name in enumerate(field):
                field[position] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _rename(attribute.g, names)
            for inner in attribute.graphs:
                _rename(inner, names)
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
