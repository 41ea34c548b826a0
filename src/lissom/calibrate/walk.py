"""Walk: a captured network is run on calibration data, and stops at each of its layers."""

from __future__ import annotations

import copy as copying
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from lissom import edits
from lissom.calibrate.layers import TURNS, Layer, normalises, only_reader
from lissom.calibrate.waiting import ROOM, Waiting
from lissom.graph.capture import export
from lissom.graph.rules import operator_name
from lissom.network import Network

__all__ = ["Walk"]

Value = Any

LAYERS = {"linear": 2, "matmul": 2, "mm": 2, "conv1d": 3, "conv2d": 4}
"""Operators that multiply by a weight, and the axes of the weight."""


class Walk:
    """Runs a captured network on calibration data, and stops at each layer.

    Each batch runs from one layer to the next when it is first looked at there, and values are dropped after their last
    reader. What the other batches hold waits, in memory or in files (:class:`~lissom.calibrate.waiting.Waiting`): the memory
    in use is that of one batch, however many there are.

    Args:
        network: Its edits are baked into the weights that the walk computes with.
        batches: Inputs of calibration samples.
        room: Bytes of values that may wait in memory.
    """

    def __init__(self, network: Network, batches: Sequence[tuple[Tensor, ...]], room: int = ROOM) -> None:
        program = export(network, decomposed=False)
        first = {alias: names[0] for alias, names in edits.aliases(network.module).items()}
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        state = edits.state_dict(network.module)
        self.nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.constants: dict[fx.Node, Value] = {}
        self.names: dict[fx.Node, str] = {}
        self.buffers: dict[fx.Node, str] = {}
        inputs: list[fx.Node] = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                spec = kinds.get(node.name)
                if spec is None or spec.kind == InputKind.USER_INPUT:
                    inputs.append(node)
                    continue
                if spec.kind == InputKind.PARAMETER:
                    self.names[node] = first.get(spec.target, spec.target)
                elif spec.kind == InputKind.BUFFER:
                    self.buffers[node] = str(spec.target)
                held = state.get(spec.target, program.constants.get(spec.target))
                self.constants[node] = held.detach() if isinstance(held, Tensor) else held
            elif node.op == "get_attr":
                self.constants[node] = getattr(program.graph_module, str(node.target))
        self.inputs, self.room = inputs, room
        self.fixed = _fixed(self.nodes, set(self.constants))
        self.last = _last_readers(node for node in self.nodes if node not in self.fixed)
        self.start(batches)

    def start(self, batches: Sequence[tuple[Tensor, ...]]) -> Walk:
        """Begin anew, on these inputs."""
        self.waiting: Waiting[fx.Node] = Waiting((dict(zip(self.inputs, batch, strict=True)) for batch in batches), self.room)
        self.reached = [0] * len(batches)
        self.here = 0
        self.moves: list[list[tuple[fx.Node, Tensor]]] = [[] for _ in batches]
        return self

    def again(self, batches: Sequence[tuple[Tensor, ...]]) -> Walk:
        """Another walk of the same network, which need not be captured anew; what this one replaced, that one has not."""
        other = copying.copy(self)
        other.constants = dict(self.constants)
        return other.start(batches)

    def layer_names(self) -> set[str]:
        """The weights of all layers, without computing anything."""
        return {layer.name for node in self.nodes if (layer := self._layer(node))}

    def layers(self) -> Iterator[Layer]:
        """Every layer whose weight is a parameter, before it is computed; :meth:`replace` changes what follows."""
        for number, node in enumerate(self.nodes):
            layer = self._layer(node)
            if layer is not None:
                self.here = number
                yield layer

    def values(self, batch: int) -> dict[fx.Node, Value]:
        """What is alive of a batch, which is brought to where the walk stands."""
        values = self.waiting[batch]
        for node, shift in self.moves[batch]:
            values[node] = values[node] + shift.to(values[node])
        self.moves[batch].clear()
        for node in self.nodes[self.reached[batch] : self.here]:
            if node not in self.fixed:
                self.compute(node, values)
                for finished in self.last.get(node, ()):
                    values.pop(finished, None)
        self.reached[batch] = max(self.reached[batch], self.here)
        return values

    def value(self, node: Any, batch: int) -> Value:
        """The value of a node in a batch, from those that it reads."""
        return self.constant(node) if self._is_constant(node) else self.compute(node, self.values(batch))

    def compute(self, node: fx.Node, values: dict[fx.Node, Value]) -> Value:
        """The value of a node among those of its batch."""
        if node not in values:
            values[node] = self.run(node, values)
        return values[node]

    @torch.no_grad()
    def run(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
        """What a node gives on these values."""
        read = fx.map_arg(
            (node.args, node.kwargs),
            lambda source: self.constant(source) if self._is_constant(source) else values.get(source),
        )
        return node.target(*read[0], **read[1])  # type: ignore[operator]

    def constant(self, node: Any) -> Value:
        """The value of a node that no input reaches; None for any other."""
        if node in self.fixed and node not in self.constants:
            self.constants[node] = self.run(node, {})
        return self.constants.get(node)

    def _is_constant(self, node: fx.Node) -> bool:
        return node in self.constants or node in self.fixed

    def replace(self, name: str, value: Tensor, moves: Mapping[fx.Node, Tensor] | None = None) -> None:
        """Let what follows compute with another tensor in the place of the parameter or buffer ``name``.

        Args:
            name: Of the parameter or buffer.
            value: What takes its place.
            moves: What is added to values that are known already, in the place of computing them again.
        """
        for node, known in (self.names | self.buffers).items():
            if known == name:
                self.constants[node] = value
                self._forget(node, set(moves or ()))
        for batch, held in enumerate(self.waiting.names()):
            self.moves[batch] += [(node, shift) for node, shift in (moves or {}).items() if node in held]

    def _forget(self, node: fx.Node, moved: Set[fx.Node]) -> None:
        """Forget what was computed from a constant: other constants, and the values of the call where the walk stands."""
        for user in node.users:
            if user in self.fixed:
                self.constants.pop(user, None)
                self._forget(user, moved)
            elif user is self.nodes[self.here] and user not in moved:
                self.waiting.discard(user)

    def turned(self, node: fx.Node, weight: Tensor) -> Tensor:
        """``weight`` in the order of axes in which ``node`` gives it."""
        if node in self.names:
            return weight
        inner = self.turned(node.args[0], weight)  # type: ignore[arg-type]
        result: Tensor = node.target(inner, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return result

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a weight as a call takes it."""
        return tuple(self.turned(node, self.constants[self._parameter(node)]).shape)  # type: ignore[index]

    def _parameter(self, node: Any) -> fx.Node | None:
        """The parameter that a node is, but for the order of its axes."""
        while isinstance(node, fx.Node) and node.op == "call_function" and operator_name(node.target) in TURNS:
            node = node.args[0]
        return node if node in self.names else None

    def _layer(self, node: fx.Node) -> Layer | None:
        kind = operator_name(node.target)
        weight = node.args[1] if kind in LAYERS and len(node.args) > 1 else None
        source = self._parameter(weight)
        if not isinstance(weight, fx.Node) or source is None or len(self.shape(weight)) != LAYERS[kind]:
            return None
        bias = node.args[2] if len(node.args) > 2 and not kind.startswith(("matmul", "mm")) else self._added(node)
        name = self.names.get(bias) if isinstance(bias, fx.Node) else None
        layer = Layer(self.names[source], name, self, node, weight)
        layer.groups = layer._arguments()["groups"] if layer.is_convolution else 1  # noqa: SLF001
        layer.centre = self._centre(node)
        return layer

    def _centre(self, node: fx.Node) -> str | None:
        """The running mean of the batch-norm that alone reads ``node``."""
        reader = only_reader(node)
        mean = reader.args[3] if reader is not None and normalises(reader) else None
        return self.buffers.get(mean) if isinstance(mean, fx.Node) else None

    def _added(self, node: fx.Node) -> fx.Node | None:
        """The vector that a sum right after a matrix product adds."""
        users = list(node.users)
        if len(users) != 1 or operator_name(users[0].target) != "add":
            return None
        found = next((source for source in users[0].all_input_nodes if source in self.names), None)
        return found if found is not None and self.constants[found].ndim == 1 else None


def _fixed(nodes: Sequence[fx.Node], constants: set[fx.Node]) -> set[fx.Node]:
    """The calls that no input of the network reaches: they are computed once, for all batches."""
    fixed: set[fx.Node] = set()
    for node in nodes:
        if all(source in constants or source in fixed for source in node.all_input_nodes):
            fixed.add(node)
    return fixed


def _last_readers(nodes: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that nothing after it reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in (*node.all_input_nodes, node):
            last[source] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        found.setdefault(node, []).append(source)
    return found
