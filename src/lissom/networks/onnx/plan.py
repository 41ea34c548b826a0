"""The plan of a graph: what is a weight, what a constant, and which functions run in which order.

Constants are folded here, once. An ``If`` whose condition is constant is replaced by the branch that it takes; any
other keeps both, and chooses while the graph runs. A ``Loop`` keeps its body.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from onnx import GraphProto, NodeProto
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.networks.onnx import operators  # noqa: F401 (fills the table)
from lissom.networks.onnx.bind import bind, described, read_attributes
from lissom.networks.onnx.file import domain_of
from lissom.networks.onnx.operators.dtypes import NARROW
from lissom.networks.onnx.roles import Role, role_of
from lissom.networks.onnx.table import Entry, find
from lissom.networks.onnx.tensors import LARGEST_CONSTANT, read_sparse, read_tensor
from lissom.networks.onnx.values import Value, as_known, as_tensor

__all__ = ["Call", "Plan", "make_plan"]

LARGEST_UNIFORM = 1 << 16
"""Elements of a vector that is looked at for being the same value throughout."""


@dataclass
class Call:
    """One node of the plan: its operator and attributes, and the names that it reads and makes."""

    entry: Entry
    attributes: dict[str, Any]
    inputs: list[str]
    outputs: list[str]
    label: str
    branches: tuple[Branch, ...] = ()


@dataclass
class Branch:
    """One side of an ``If``, or the body of a ``Loop``: its calls, which read and make values beside those of the graph.

    What it answers are its outputs; only a body has inputs.
    """

    calls: list[Call]
    outputs: list[str]
    inputs: list[str]


@dataclass
class Plan:
    """A graph taken apart.

    Args:
        parameters: Floating initialisers that are weights, by their name in the file.
        buffers: What else is the network's state: batch-norm statistics, integer weights.
        constants: Everything known without data.
        calls: What runs, in order.
        inputs: Names of the graph's inputs, without initialisers.
        outputs: Names of what the graph's outputs are computed as.
        unsupported: Operators without a function, with how often each stands in the graph.
        origins: Where each tensor of the file stands: its name there, after the branches that it lies in (the first
            output of their ``If``, and the side).
        readers: For tensors that the file shares although nothing ties them: the node's first output, and the position
            at which it reads them.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    unsupported: Counter[str] = field(default_factory=Counter)
    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    readers: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return {**self.parameters, **self.buffers}


def make_plan(
    graph: GraphProto, versions: dict[str, int], folder: Path | None, settings: Mapping[str, Tensor] | None = None
) -> Plan:
    """Take a graph apart.

    Args:
        graph: The graph, its own functions already replaced by their nodes.
        versions: Version of each operator set.
        folder: Where external data lies.
        settings: Inputs that are fixed: constants from here on.

    Raises:
        ModelRefused: a node reads what nothing makes, or is not as its operator wants it.
    """
    planner = _Planner(versions, folder, _consumers(graph))
    planner.plan.constants.update(settings or {})
    planner.defined.update(settings or {})
    planner.walk(graph)
    plan = planner.plan
    plan.outputs = [planner.resolve(output.name) for output in graph.output]
    missing = [name for name in plan.outputs if name not in planner.defined]
    if missing:
        raise ModelRefused(f"no node makes the output {missing[0]!r} of the graph")
    _drop_dead(plan)
    return plan


class _Planner:
    """Walks the nodes in order and sorts what it meets into the plan."""

    def __init__(self, versions: dict[str, int], folder: Path | None, consumers: dict[str, list[tuple[str, int]]]) -> None:
        self.plan = Plan()
        self.versions = versions
        self.folder = folder
        self.consumers = consumers
        self.aliases: dict[str, str] = {}
        self.branch_count = 0
        self.path: tuple[str, ...] = ()
        self.narrow: dict[str, int] = {}
        self.uniform: set[str] = set()
        self.defined: set[str] = {""}

    def resolve(self, name: str) -> str:
        return self.aliases.get(name, name)

    def walk(self, graph: GraphProto) -> None:
        """Add the whole graph to the plan."""
        self.add_initializers(graph)
        self.plan.inputs = [value.name for value in graph.input if value.name not in self.defined]
        self.defined.update(self.plan.inputs)
        for node in graph.node:
            self.add_node(node, graph)

    def add_initializers(self, graph: GraphProto) -> None:
        for proto in graph.initializer:
            if proto.data_type in NARROW:
                self.narrow[self.resolve(proto.name)] = proto.data_type
            self.add_tensor(proto.name, read_tensor(proto, self.folder))
        for sparse in graph.sparse_initializer:
            self.add_tensor(sparse.values.name, read_sparse(sparse))

    def branch(self, node: NodeProto, side: str) -> Branch:
        """The calls of a branch or a body; its names are made distinct, since others may use the same ones."""
        graph = next(attribute.g for attribute in node.attribute if attribute.name == side)
        outer_calls, outer_aliases, outer_path = self.plan.calls, dict(self.aliases), self.path
        self.path = (*outer_path, node.output[0], side)
        self.plan.calls = []
        own = [value.name for value in graph.input]
        made = [*own, *(tensor.name for tensor in graph.initializer), *(name for n in graph.node for name in n.output if name)]
        self.branch_count += 1
        self.aliases.update({name: f"{name}@{self.branch_count}" for name in made if name in self.defined})
        self.add_initializers(graph)
        inputs = [self.resolve(name) for name in own]
        self.defined.update(inputs)
        for node in graph.node:
            self.add_node(node, graph)
        found = Branch(self.plan.calls, [self.resolve(output.name) for output in graph.output], inputs)
        self.plan.calls, self.aliases, self.path = outer_calls, outer_aliases, outer_path
        self.defined.update(made)  # the other branch must not take these names for its own
        return found

    def add_tensor(self, original: str, tensor: Tensor) -> None:
        """Sort a tensor of the file by what reads it."""
        name = self.resolve(original)
        self.plan.origins[name] = (*self.path, original)
        consumers = self.consumers.get(original, [])
        role = role_of(tensor, consumers)
        if role is not Role.CONSTANT and len(consumers) > 1 and not self.path and _is_uniform(tensor):
            self.uniform.add(name)
        store = {Role.PARAMETER: self.plan.parameters, Role.BUFFER: self.plan.buffers, Role.CONSTANT: self.plan.constants}[role]
        store[name] = tensor
        self.defined.add(name)

    def add_node(self, node: NodeProto, graph: GraphProto) -> None:
        inputs = [self.resolve(name) for name in node.input]
        for name in inputs:
            if name not in self.defined:
                raise ModelRefused(f"{described(node)} reads {name!r} {_why_undefined(name, graph)}")
        inputs = [self.own(name, node, position) if name in self.uniform else name for position, name in enumerate(inputs)]
        domain = domain_of(node.domain)
        special = _SPECIAL.get(node.op_type) if domain == "" else None
        if special is None or not special(self, node, inputs):
            entry = find(domain, node.op_type, self.versions.get(domain, 0))
            if entry is None:
                label = f"{domain}.{node.op_type}" if domain else node.op_type
                self.plan.unsupported[label] += 1
            else:
                self.add_call(node, entry, inputs)
        self.defined.update(self.resolve(name) for name in node.output if name)

    def own(self, name: str, node: NodeProto, position: int) -> str:
        """A vector of equal values for this reader alone: exporters store all zeros of one length once, and tie nothing by it."""
        if self.path or node.op_type == "Identity":
            return name
        own = name if name not in self.plan.readers else f"{name}#{len(self.plan.readers)}"
        self.plan.readers[own] = (node.output[0], position)
        for store in (self.plan.parameters, self.plan.buffers):
            if name in store:
                store[own] = store[name] if own == name else store[name].clone()
        self.plan.origins[own] = self.plan.origins[name]
        self.defined.add(own)
        return own

    def add_call(self, node: NodeProto, entry: Entry, inputs: list[str]) -> None:
        attributes = read_attributes(node, entry)
        if entry.name == "QuantizeLinear" and inputs[-1] in self.narrow:  # torch holds 4 bits in a byte, with other ends
            attributes["output_dtype"] = self.narrow[inputs[-1]]
        call = Call(entry, attributes, inputs, [self.resolve(name) for name in node.output], described(node))
        if all(name in self.plan.constants or not name for name in inputs) and self.folds(call):
            return
        self.plan.calls.append(call)

    def folds(self, call: Call) -> bool:
        """Compute the call now, unless its result would be absurdly large."""
        constants = [self.plan.constants[name] if name else None for name in call.inputs]
        if _result_size(call, constants) > LARGEST_CONSTANT:
            return False
        arriving = [call.entry.kind(position) for position in range(len(constants))]
        values: list[Value | None] = []
        for tensor, kind in zip(constants, arriving, strict=True):
            values.append(as_known(tensor) if tensor is not None and kind == "known" else tensor)
        try:
            result = bind(call.entry, call.attributes, arriving)(*values)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelRefused(f"{call.label} cannot be computed: {str(error).splitlines()[0]}") from error
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(call.outputs, results, strict=False):
            if name:
                self.plan.constants[name] = as_tensor(value)
        return True


def _is_uniform(tensor: Tensor) -> bool:
    return tensor.ndim == 1 and 1 < len(tensor) <= LARGEST_UNIFORM and bool((tensor == tensor[0]).all())


def _constant(planner: _Planner, node: NodeProto, _inputs: list[str]) -> bool:
    """A Constant node is an initialiser with another spelling."""
    entry = Entry("Constant", _constant_value, 1, None)
    planner.add_tensor(node.output[0], _constant_value(**read_attributes(node, entry)))
    return True


def _constant_value(
    *, value: Tensor | None = None, value_float: float | None = None, value_floats: list[float] | None = None,
    value_int: int | None = None, value_ints: list[int] | None = None,
) -> Tensor:  # fmt: skip
    if value is not None:
        return value
    if value_float is not None or value_floats is not None:
        return torch.tensor(value_float if value_float is not None else value_floats, dtype=torch.float32)
    return torch.tensor(value_int if value_int is not None else value_ints, dtype=torch.int64)


def _identity(planner: _Planner, node: NodeProto, inputs: list[str]) -> bool:
    """An Identity is another name; of a weight, a tied one."""
    planner.aliases[node.output[0]] = inputs[0]
    return True


def _if(planner: _Planner, node: NodeProto, inputs: list[str]) -> bool:
    """The branch that a constant condition takes; else both, and the condition chooses when the graph runs."""
    condition = planner.plan.constants.get(inputs[0])
    if condition is not None:
        taken = planner.branch(node, "then_branch" if bool(condition) else "else_branch")
        planner.plan.calls += taken.calls
        planner.aliases.update(zip(node.output, taken.outputs, strict=True))
        return True
    _nest(planner, node, inputs, (planner.branch(node, "then_branch"), planner.branch(node, "else_branch")))
    return True


def _loop(planner: _Planner, node: NodeProto, inputs: list[str]) -> bool:
    """The body, which runs while its condition holds."""
    body = planner.branch(node, "body")
    if len(body.inputs) != len(inputs) or len(body.outputs) != len(node.output) + 1:
        raise ModelRefused(
            f"{described(node)} has {len(inputs)} inputs and {len(node.output)} outputs, and its body {len(body.inputs)} and "
            f"{len(body.outputs)}: the file is damaged, export it again"
        )
    _nest(planner, node, inputs, (body,))
    return True


def _nest(planner: _Planner, node: NodeProto, inputs: list[str], branches: tuple[Branch, ...]) -> None:
    """Add a node with graphs inside; all that they read is among its inputs, which keeps it alive."""
    read = [name for branch in branches for call in branch.calls for name in call.inputs]
    answers = [name for branch in branches for name in branch.outputs]
    entry, made = Entry(node.op_type, _chosen, 1, None), [planner.resolve(name) for name in node.output]
    planner.plan.calls.append(Call(entry, {}, [*inputs, *read, *answers], made, described(node), branches))


def _chosen(condition: Tensor) -> Tensor:
    return condition


_SPECIAL: dict[str, Callable[[_Planner, NodeProto, list[str]], bool]] = {
    "Constant": _constant, "Identity": _identity, "If": _if, "Loop": _loop,
}  # fmt: skip


def _consumers(graph: GraphProto) -> dict[str, list[tuple[str, int]]]:
    """For each name, the operators that read it and at which position, in branches too; ``Identity`` passes on."""
    found: dict[str, list[tuple[str, int]]] = {}
    aliases: dict[str, str] = {}
    for node in _all_nodes(graph):
        for position, name in enumerate(node.input):
            found.setdefault(aliases.get(name, name), []).append((node.op_type, position))
        if node.op_type == "Identity":
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
    return found


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _all_nodes(inner)


def _why_undefined(name: str, graph: GraphProto) -> str:
    if any(name in node.output for node in graph.node):
        return "before it is made: the graph has a cycle, or its nodes are not sorted"
    return "which nothing makes: the file is damaged, export it again"


def _elements(tensor: Tensor | None) -> int:
    return 1 if tensor is None else tensor.numel()


def _numbers(values: list[Tensor | None], position: int) -> list[Any]:
    tensor = values[position] if position < len(values) else None
    return [] if tensor is None else tensor.reshape(-1).tolist()[:64]


def _product(values: list[Tensor | None], position: int) -> float:
    return float(math.prod(max(number, 1) for number in _numbers(values, position)))


def _range_length(values: list[Tensor | None]) -> float:
    start, limit, delta = (_numbers(values, position)[0] for position in range(3))
    return float((limit - start) / (delta or 1))


_GROWTH: dict[str, Callable[[list[Tensor | None]], float]] = {
    "ConstantOfShape": lambda values: _product(values, 0),
    "Expand": lambda values: _elements(values[0]) * _product(values, 1),
    "Tile": lambda values: _elements(values[0]) * _product(values, 1),
    "OneHot": lambda values: _elements(values[0]) * _product(values, 1),
    "Pad": lambda values: float(math.prod(max(length, 1) + sum(map(abs, _numbers(values, 1))) for length in _shape(values[0]))),
    "Range": _range_length,
    "HannWindow": lambda values: _product(values, 0),
    "HammingWindow": lambda values: _product(values, 0),
    "BlackmanWindow": lambda values: _product(values, 0),
}
"""Operators whose result can be far larger than their inputs, and a bound on its number of elements."""


def _shape(tensor: Tensor | None) -> list[int]:
    return [] if tensor is None else list(tensor.shape)


def _result_size(call: Call, constants: list[Tensor | None]) -> float:
    bound = _GROWTH.get(call.entry.name)
    return 0 if bound is None else bound(constants)


def _drop_dead(plan: Plan) -> None:
    """Leave out what no output needs."""
    needed = set(plan.outputs)
    kept = []
    for call in reversed(plan.calls):
        if needed & set(call.outputs):
            kept.append(call)
            needed.update(call.inputs)
    plan.calls = kept[::-1]
    plan.constants = {name: tensor for name, tensor in plan.constants.items() if name in needed}
