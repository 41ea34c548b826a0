"""Capture: a network's ATen graph in eval mode, as a value to print and to ask."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from lissom import edits
from lissom.errors import ModelRefused
from lissom.graph.axes import ONE, Atom, Axis, freeze, size
from lissom.graph.rules import Axes, Call, Written, operator_name, rules
from lissom.graph.rules.table import hint
from lissom.network import Network

__all__ = ["Graph", "Node", "capture"]


@dataclass(frozen=True)
class Node:
    """One call of an ATen operator.

    Args:
        name: Its name in the graph.
        operator: The operator without namespace and overload, such as ``"conv2d"``.
        module: Path of the module that called it; empty for the network itself.
        inputs: Names of the nodes, parameters, buffers and inputs that it reads.
        shapes: Shape of each tensor that it gives back, for the batch of the example inputs.
        macs: Multiply-accumulate operations for one sample.
        parameters: Names of the parameters that it reads directly.
        weight_bytes: Bytes of those parameters.
        activation_bytes: Bytes of what it gives back, for one sample.
        known: Whether there is an axis rule for the operator.
    """

    name: str
    operator: str
    module: str
    inputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    macs: int
    parameters: tuple[str, ...]
    weight_bytes: int
    activation_bytes: int
    known: bool

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) or "scalar" for shape in self.shapes if 0 not in shape)
        return f"{self.name:<28} {self.operator:<24} {shapes:<20} {self.macs:>14,} {self.module}"


@dataclass(frozen=True, eq=False)
class Graph:
    """A network's calls in the order in which they run, and the axes of every tensor.

    Args:
        nodes: Every call.
        tensors: The axes of every parameter and buffer, by the user's name; tied ones under one name.
        batch: Batch of the example inputs; MACs and bytes are given for one sample.
        work: For each multiplication of tensors, by node: the axes that it runs over; their sizes multiply to MACs.
        written: Sizes that the network's own code states as numbers.
        uses: For each parameter or buffer: in words, the calls that read it.
        trainable: Names of the parameters; the other tensors are buffers.
        shapes: Shape of each parameter and buffer.
        element_bytes: Bytes of one element of each.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Axes]
    batch: int
    work: Mapping[str, tuple[Axes, ...]] = field(repr=False)
    written: tuple[Written, ...] = field(repr=False)
    uses: Mapping[str, tuple[str, ...]] = field(repr=False)
    trainable: frozenset[str] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    element_bytes: Mapping[str, int] = field(repr=False)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)

    def of_module(self, path: str) -> tuple[Node, ...]:
        """The calls that the module ``path``, or a module inside it, makes."""
        return tuple(node for node in self.nodes if node.module == path or node.module.startswith(f"{path}."))

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one sample."""
        return sum(node.macs for node in self.nodes)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Operators without an axis rule: what touches them is left alone."""
        return tuple(sorted({node.operator for node in self.nodes if not node.known}))

    def __str__(self) -> str:
        head = f"{'node':<28} {'operator':<24} {'result':<20} {'MACs':>14} module"
        return "\n".join([head, *map(str, self.nodes)])


def capture(network: Network) -> Graph:
    """Capture the network's graph and follow every axis through it.

    The module is traced with fake tensors, so its weights are not copied (where edits stand, a copy is baked first).

    Args:
        network: The network; it is left as it was.

    Returns:
        The graph, for the example inputs' shapes.

    Raises:
        ModelRefused: the network cannot be traced, for instance because its control flow depends on data.

    Example:
        >>> graph = capture(Network(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.zeros(2, 3),)))
        >>> [node.operator for node in graph], graph.macs
        (['linear', 'relu', 'linear'], 20)
    """
    form, known = _form(network), _CAPTURED.get(network.module)
    if known is None or known[0] != form:
        program = export(network)
        first_names = {alias: names[0] for alias, names in edits.aliases(network.module).items()}
        batch = int(network.example_inputs[0].shape[0])
        known = _CAPTURED[network.module] = form, _Analysis(program, batch, first_names, network.module).graph()
    return known[1]


_CAPTURED: weakref.WeakKeyDictionary[nn.Module, tuple[Any, Graph]] = weakref.WeakKeyDictionary()
"""Graphs by module: a job asks for the original's graph once for each candidate, and a capture takes seconds."""


def _form(network: Network) -> tuple[Any, ...]:
    """What a graph depends on, as far as it can change in a module that stays the same object; a new rule makes a new graph."""
    parts = tuple((name, type(part), _settings(part)) for name, part in network.module.named_modules())
    tensors = tuple((name, tensor.shape, tensor.dtype) for name, tensor in network.module.state_dict().items())
    inputs = tuple((tensor.shape, tensor.dtype) for tensor in network.example_inputs)
    return parts, tensors, inputs, network.input_names, str(network.dynamic_axes), frozenset(rules)


def _settings(part: nn.Module) -> tuple[tuple[str, str], ...]:
    """Sizes, strides and switches that a module's code reads from it."""
    plain = (int, float, str, tuple)
    return tuple((key, repr(value)) for key, value in vars(part).items() if isinstance(value, plain) and key != "training")


def export(network: Network, *, decomposed: bool = True) -> ExportedProgram:
    """The network's functional ATen program in eval mode, with a dynamic batch where the network allows it.

    Args:
        network: It is left as it was.
        decomposed: Whether operators that are made of others are taken apart, which takes longer than the capture itself. Where
            not, it is done only if a call would change a value in its place.
    """
    module = network.module
    strange = [name for name, parameter in module.named_parameters() if parameter.is_complex()]
    if strange:
        raise ModelRefused(
            f"the network's graph cannot be captured: {strange[0]} is complex, and channels are followed through "
            "real numbers only; keep its real and imaginary parts as two parameters"
        )
    if edits.edited(module):
        module = edits.bake(edits.copy_module(module))
    was_training = module.training
    module.eval()
    try:
        with _quiet():
            return _export(module, network, decomposed=decomposed)
    except Exception as error:  # torch.export raises dozens of unrelated types; each means the same here
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelRefused(
            f"the network's graph cannot be captured: {reason}; "
            "control flow that depends on data must become torch.where, or stay outside the network"
        ) from error
    finally:
        module.train(was_training)


def _export(module: nn.Module, network: Network, *, decomposed: bool) -> ExportedProgram:
    dynamic: tuple[Any, ...] = tuple(
        dict.fromkeys((0, *network.dynamic_axes.get(name, ())), Dim.AUTO) for name in network.input_names
    )
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        dynamic = (dynamic,)
    inputs = network.example_inputs
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
    except (RuntimeError, AssertionError, ValueError, KeyError):
        program = torch.export.export(module, inputs, strict=False)
    if not decomposed and not any(_in_place(node) for node in program.graph.nodes):
        return program
    functional: ExportedProgram = program.run_decompositions({})
    return functional


def _in_place(node: fx.Node) -> bool:
    """Whether a node changes a value that others read, or is no plain operator: a loop, a switch of modes."""
    if node.op != "call_function" or getattr(node.target, "__module__", "") == "_operator":  # an entry, a sum of sizes
        return False
    schema = getattr(node.target, "_schema", None)
    return schema is None or bool(schema.is_mutable)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing warns of matters inside torch that a user can do nothing about."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


class _Analysis:
    """One walk over the graph, call by call, that gives every tensor its axes."""

    def __init__(self, program: ExportedProgram, batch: int, first_names: Mapping[str, str], module: nn.Module) -> None:
        self.batch = batch
        self.owners = dict(module.named_modules(remove_duplicate=False))
        self.module = module
        self.first_names = first_names
        self.program = program
        self.axes_of: dict[fx.Node, Any] = {}
        self.tensors: dict[str, Axes] = {}
        self.names: dict[fx.Node, str] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.uses: dict[str, list[str]] = {}
        self.work: dict[str, tuple[Axes, ...]] = {}
        self.written: list[Written] = []
        self.nodes: list[Node] = []
        self.trainable: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.element_bytes: dict[str, int] = {}

    def graph(self) -> Graph:
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds[node.name])
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "get_attr":
                self.axes_of[node] = _fixed(node, "a constant in the network's code")
            elif node.op == "output":
                for source in node.all_input_nodes:
                    for axes in _each(self.axes_of.get(source)):
                        for axis in axes:
                            freeze(axis, "an output of the network has it")
        for name in (name for name, found in self.uses.items() if not found):
            for axis in self.tensors[name]:
                freeze(axis, "nothing reads it")
        uses = {name: tuple(dict.fromkeys(found)) for name, found in self.uses.items()}
        nodes = tuple(_costed(node, self.work.get(node.name, ()), self.batch) for node in self.nodes)
        return Graph(
            nodes, self.tensors, self.batch, self.work, tuple(self.written), uses,
            frozenset(self.trainable), self.shapes, self.element_bytes,
        )  # fmt: skip

    def _placeholder(self, node: fx.Node, spec: Any) -> None:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            name = self.first_names.get(spec.target, spec.target)
            self.names[node] = name
            if name in self.tensors:  # a tied tensor that comes in twice
                self.axes_of[node] = self.tensors[name]
                return
            self.axes_of[node] = self.tensors[name] = tuple(_axis(hint(length), None) for length in value.shape)
            self.uses[name] = []
            self.shapes[name] = tuple(map(hint, value.shape))
            self.element_bytes[name] = value.element_size()
            if spec.kind == InputKind.PARAMETER:
                self.trainable.add(name)
        else:
            constant = spec.kind == InputKind.CONSTANT_TENSOR
            if constant and isinstance(found := self.program.constants.get(spec.target), Tensor):
                self.constants[node] = found
            self.axes_of[node] = _fixed(node, "a constant in the network's code" if constant else f"input {node.name} has it")

    def _call(self, node: fx.Node) -> None:
        name, module = operator_name(node.target), _module_of(node)
        where = f"{name} in {module}" if module else name
        if name == "getitem" and isinstance(self.axes_of.get(node.args[0]), list):  # type: ignore[arg-type]
            self.axes_of[node] = self.axes_of[node.args[0]][node.args[1]]  # type: ignore[index]
            return
        call = Call(node, where, module, self.owners.get(module, self.module), _arguments(node), self.axes_of, self.constants)
        lengths = call.result_lengths()
        if not lengths:  # a check of sizes or dtypes, which computes nothing
            return
        for source in node.all_input_nodes:
            if source in self.names:
                self.uses[self.names[source]].append(where)
        found = rules.get(name)
        self.axes_of[node] = _unknown(call) if found is None else _checked(call, found(call))
        self.written.extend(call.written)
        self.work[node.name] = tuple(call.work)
        self.nodes.append(self._node(node, name, module, tuple(lengths), found is not None))

    def _node(self, node: fx.Node, name: str, module: str, shapes: tuple[tuple[int, ...], ...], known: bool) -> Node:
        parameters = [source for source in node.all_input_nodes if self.names.get(source) in self.trainable]
        return Node(
            name=node.name,
            operator=name,
            module=module,
            inputs=tuple(self.names.get(source, source.name) for source in node.all_input_nodes),
            shapes=shapes,
            macs=0,
            parameters=tuple(self.names[source] for source in parameters),
            weight_bytes=sum(_bytes(source) for source in parameters),
            activation_bytes=_bytes(node) // self.batch,
            known=known,
        )


def _costed(node: Node, work: tuple[Axes, ...], batch: int) -> Node:
    return dataclasses.replace(node, macs=sum(math.prod(map(size, axes)) for axes in work) // batch)


def _axis(length: int, why: str | None) -> Axis:
    return ONE if length == 1 else Atom(length, why)


def _fixed(node: fx.Node, why: str) -> Axes | None:
    value = node.meta.get("val")
    return tuple(_axis(hint(length), why) for length in value.shape) if isinstance(value, Tensor) else None


def _each(found: Any) -> Iterator[Axes]:
    if isinstance(found, tuple):
        yield found
    elif isinstance(found, list):
        yield from found


def _unknown(call: Call) -> Axes | list[Axes]:
    for axes in call.tensors():
        call.freeze(axes, "has no axis rule")
    results = [call.fresh_frozen(lengths, "has no axis rule") for lengths in call.result_lengths()]
    return results if isinstance(call.node.meta.get("val"), (tuple, list)) else results[0]


def _checked(call: Call, result: Any) -> Any:
    """The rule's answer where its lengths are the operator's; otherwise the call is treated as unknown.

    A rule that met a form of its operator that it does not know must cost a refusal, never a wrong slice.
    """
    shapes = [tuple(map(size, axes)) for axes in _each(result)]
    if shapes == call.result_lengths():
        return result
    for axes in _each(result):
        call.freeze(axes, "is called in a form that its axis rule does not know")
    return _unknown(call)


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return dict(node.kwargs)
    found = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    found.update({argument.name: value for argument, value in zip(schema.arguments, node.args, strict=False)})
    found.update(node.kwargs)
    return {name: _number(value) for name, value in found.items()}


def _number(value: Any) -> Any:
    """Symbolic sizes as the numbers that they stood for; tensors stay nodes."""
    if isinstance(value, fx.Node):
        symbol = value.meta.get("val")
        return hint(symbol) if isinstance(symbol, (torch.SymInt, int)) and not isinstance(symbol, bool) else value
    if isinstance(value, (list, tuple)):
        return [_number(each) for each in value]
    return value


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return str(paths[-1]) if paths and not str(paths[-1]).startswith("_empty_nn_module_stack") else ""


def _bytes(node: fx.Node) -> int:
    found = node.meta.get("val")
    values = found if isinstance(found, (tuple, list)) else (found,)
    return sum(math.prod(map(hint, value.shape)) * value.element_size() for value in values if isinstance(value, Tensor))
