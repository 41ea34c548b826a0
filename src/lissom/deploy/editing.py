"""Editor: an ONNX model opened for editing, with its constants as arrays and its edges as dictionaries."""

from __future__ import annotations

import copy as copying
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    StringStringEntryProto,
    TensorProto,
    helper,
    numpy_helper,
)  # fmt: skip

from lissom.errors import DeployFailed
from lissom.runtimes import Parts, Session, open_file

__all__ = ["Editor", "add_outputs", "attributes", "make_node", "rename_values"]

Array = npt.NDArray[Any]
LARGE = 2**12
"""Bytes from which on a runtime reads a constant where it is."""
SHARED = frozenset(map(np.dtype, ("float32", "float64", "float16", "int8", "uint8", "int32", "int64")))
"""Types of constants that it can be given so."""


class Editor:
    """The nodes and constants of a model, free to change; :meth:`close` writes them back.

    Args:
        model: The model; it is not changed until :meth:`close`, which returns another.
        parameters: Names of constants that hold what was trained: passes move them, and never fold them away.
    """

    def __init__(self, model: ModelProto, parameters: Iterable[str] = ()) -> None:
        self.model = _hollow(model)
        graph = model.graph
        self.nodes: list[NodeProto] = list(self.model.graph.node)  # a node of the model's own would hold all of it
        self.constants: dict[str, Array] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.parameters = set(parameters)
        self.permutations: dict[str, tuple[int, ...]] = {}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        self.types: dict[str, tuple[int, tuple[int | str | None, ...] | None]] = {}
        for value in [*graph.input, *graph.output, *graph.value_info]:
            self.types[value.name] = _type_of(value)
        self.taken: set[str] = set(self.constants) | set(self.inputs) | {name for node in self.nodes for name in node.output}

    def copy(self) -> Editor:
        """An editor with nodes of its own, in the same order; constants are shared, and never changed in place."""
        duplicate = copying.copy(self)
        duplicate.nodes = [copying.deepcopy(node) for node in self.nodes]
        duplicate.constants, duplicate.permutations = dict(self.constants), dict(self.permutations)
        duplicate.parameters, duplicate.taken = set(self.parameters), set(self.taken)
        return duplicate

    def producers(self) -> dict[str, NodeProto]:
        """The node that computes each value."""
        return {name: node for node in self.nodes for name in node.output if name}

    def users(self) -> dict[str, list[NodeProto]]:
        """The nodes that read each value, one entry for every reading; captures by subgraphs count."""
        found: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                found.setdefault(name, []).append(node)
        return found

    def element_type(self, name: str) -> int | None:
        """The ONNX element type of a value, where it is known."""
        if name in self.constants:
            return int(helper.np_dtype_to_tensor_dtype(self.constants[name].dtype))
        return self.types[name][0] if name in self.types else None

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """The shape of a value, where it is known; a dynamic axis is a name or None."""
        if name in self.constants:
            return self.constants[name].shape
        return self.types[name][1] if name in self.types else None

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet, taken from now on."""
        name, number = stem, 1
        while name in self.taken:
            name, number = f"{stem}_{number}", number + 1
        self.taken.add(name)
        return name

    def add_constant(self, stem: str, value: Array) -> str:
        """Add a constant under a fresh name."""
        name = self.fresh(stem)
        self.constants[name] = np.ascontiguousarray(value) if value.ndim else value
        return name

    def replace_uses(self, old: str, new: str, *, among: Iterable[NodeProto] | None = None) -> None:
        """Let every reader of ``old`` (or those ``among``) read ``new``; a graph output keeps its name."""
        for node in self.nodes if among is None else among:
            _rename_reads(node, {old: new})

    def remove_constant(self, name: str) -> None:
        """Take a constant out; its name is free for another value."""
        del self.constants[name]
        self.taken.discard(name)

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return next(entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx"))

    def give(self, constants: Mapping[str, Array]) -> None:
        """Let these constants have these values: those of a hollow graph, or others than they had."""
        self.constants.update(constants)
        self.taken.update(constants)

    def rename_constant(self, old: str, new: str) -> None:
        """Give a constant another name, in the readers and wherever it is kept."""
        self.constants[new] = self.constants.pop(old)
        self.taken.add(new)
        self.replace_uses(old, new)
        if old in self.parameters:
            self.parameters.discard(old)
            self.parameters.add(new)
        if old in self.permutations:
            self.permutations[new] = self.permutations.pop(old)

    def transpose(self, name: str, order: tuple[int, ...]) -> None:
        """Store a constant with its axes in another order; :attr:`permutations` remembers it."""
        self.constants[name] = np.ascontiguousarray(self.constants[name].transpose(order))
        before = self.permutations.get(name, tuple(range(len(order))))
        self.permutations[name] = tuple(before[axis] for axis in order)

    def remove(self, nodes: Iterable[NodeProto]) -> None:
        """Take these nodes out."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def sort(self) -> None:
        """Put the nodes into an order in which each comes after what it reads, the present order where that is free.

        Raises:
            DeployFailed: a node reads what follows from its own output.
        """
        producers = self.producers()
        placed: set[int] = set()
        opened: set[int] = set()
        order: list[NodeProto] = []
        for root in self.nodes:
            stack = [(root, False)]
            while stack:
                node, ready = stack.pop()
                if id(node) in placed:
                    continue
                if ready:
                    placed.add(id(node))
                    order.append(node)
                    continue
                if id(node) in opened:
                    raise DeployFailed(
                        f"the graph runs in a circle: {node.op_type} {node.name or node.output[0]} reads its own output"
                    )
                opened.add(id(node))
                stack.append((node, True))
                before = [producers[name] for name in reads(node) if name in producers]
                stack.extend((other, False) for other in reversed(before) if id(other) not in placed)
        self.nodes = order

    def open(self, added: Iterable[str] = (), *, optimize: bool = True) -> Session:
        """The graph as it stands in ONNX Runtime, which reads its weights where they are: there is no second copy of them.

        Args:
            added: Values that become outputs, behind the graph's own, where they are neither inputs nor outputs already.
            optimize: Whether the runtime may rewrite the graph.
        """
        large = {name: array for name, array in self.constants.items() if array.nbytes >= LARGE and array.dtype in SHARED}
        model = self.copy().close(apart=large)
        add_outputs(model, added)
        used = (tensor.name for tensor in model.graph.initializer)
        held = {name: np.ascontiguousarray(large[name]) for name in used if name in large}
        return open_file(Parts(model.SerializeToString(), held), optimize=optimize)

    def close(self, *, keep_names: bool = False, apart: Collection[str] = ()) -> ModelProto:
        """The edited model: nodes in order, named by operator and number, constants in the order of their use.

        Args:
            keep_names: Leave the names that nodes have, and what the model says about itself.
            apart: Constants that are only declared, as external data: their values are not in the model.
        """
        self.sort()
        model = ModelProto()
        model.CopyFrom(_emptied(self.model) if keep_names else _without_graph(self.model))
        graph = model.graph
        graph.name = self.model.graph.name
        graph.input.extend(self.model.graph.input)
        graph.output.extend(self.model.graph.output)
        known = {entry.domain for entry in model.opset_import} | {""}
        model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted({n.domain for n in self.nodes} - known))
        count: Counter[str] = Counter()
        for node in self.nodes:
            copied = graph.node.add()
            copied.CopyFrom(node)
            kind = node.op_type.lower()
            if not (keep_names and copied.name):
                copied.name = f"{kind}_{count[kind]}"
            count[kind] += 1
        used = dict.fromkeys(name for node in self.nodes for name in reads(node))
        used.update(dict.fromkeys(self.outputs))
        for name in used:
            if name in apart:
                graph.initializer.append(_declared(name, self.constants[name]))
            elif name in self.constants:
                graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return model


def _declared(name: str, array: Array) -> TensorProto:
    """A constant without its values, which stand beside the file."""
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.data_location = TensorProto.EXTERNAL
    fields = {"location": "memory", "offset": "0", "length": str(array.nbytes)}
    tensor.external_data.extend(StringStringEntryProto(key=key, value=value) for key, value in fields.items())
    return tensor


def _hollow(model: ModelProto) -> ModelProto:
    """The model without its constants; they are not copied on the way."""
    bare = ModelProto()
    _copy_fields(model, bare, leaving="graph")
    _copy_fields(model.graph, bare.graph, leaving="initializer")
    return bare


def _copy_fields(source: Any, target: Any, *, leaving: str) -> None:
    for field, value in source.ListFields():
        if field.name == leaving:
            continue
        if hasattr(value, "extend"):  # it may be there many times
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def add_outputs(model: ModelProto, names: Iterable[str]) -> None:
    """Make values outputs, behind those that the model has, so that a run shows them; inputs and outputs stay what they are."""
    have = {value.name for value in [*model.graph.input, *model.graph.output]}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in have)


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def make_node(kind: str, inputs: Iterable[str], outputs: Iterable[str], **fields: Any) -> NodeProto:
    """A node, of the default domain unless ``domain`` is given."""
    return helper.make_node(kind, list(inputs), list(outputs), **fields)


def reads(node: NodeProto) -> Iterator[str]:
    """The values that a node reads, those that its subgraphs capture among them."""
    yield from (name for name in node.input if name)
    for graph in _subgraphs(node):
        inner = {name for inside in graph.node for name in inside.output} | {value.name for value in graph.input}
        inner |= {tensor.name for tensor in graph.initializer}
        for inside in graph.node:
            yield from (name for name in reads(inside) if name not in inner)
        yield from (value.name for value in graph.output if value.name not in inner)


def rename_values(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Give values of a graph other names, wherever they are computed or read, all at once; constants keep theirs."""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        _rename_reads(node, names)
        for position, name in enumerate(node.output):
            node.output[position] = names.get(name, name)


def _rename_reads(node: NodeProto, names: Mapping[str, str]) -> None:
    for position, name in enumerate(node.input):
        if name in names:
            node.input[position] = names[name]
    for graph in _subgraphs(node):
        for inside in graph.node:
            _rename_reads(inside, names)


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _without_graph(model: ModelProto) -> ModelProto:
    bare = ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.metadata_props.extend(model.metadata_props)
    return bare


def _emptied(model: ModelProto) -> ModelProto:
    """The model with all that it says about itself, and nothing in its graph but that."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for field in ("node", "initializer", "input", "output", "value_info"):
        bare.graph.ClearField(field)
    return bare


def _type_of(value: onnx.ValueInfoProto) -> tuple[int, tuple[int | str | None, ...] | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim)
    return tensor.elem_type, dims
