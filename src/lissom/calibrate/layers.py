"""Layers: the calls of a network that multiply by a weight, met in order on calibration data."""

from __future__ import annotations

import copy as copying
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.nn import functional as F

from lissom import edits
from lissom.graph.capture import export
from lissom.graph.rules import operator_name
from lissom.network import Network

__all__ = ["Layer", "Walk", "layer_of"]

Value = Any
TURNS = frozenset({"t", "transpose", "permute", "numpy_T"})
"""Operators that only turn a weight's axes."""

ACTIVATIONS = frozenset({
    "relu", "relu6", "clamp", "hardtanh", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid",
    "tanh", "softplus",
})  # fmt: skip
"""Operators that give for each number another, by themselves."""

CLIPS: dict[str, Callable[..., tuple[float, float]]] = {
    "relu": lambda: (0.0, math.inf),
    "relu6": lambda: (0.0, 6.0),
    "hardtanh": lambda low=-1.0, high=1.0: (low, high),
    "clamp": lambda low=None, high=None: (-math.inf if low is None else low, math.inf if high is None else high),
}
"""Operators that clip, and where."""


@dataclass
class Layer:
    """One call that multiplies by a weight: a linear layer, a matrix product or a convolution.

    Args:
        name: The user's name of the weight.
        bias: The name of what is added per output; None where there is none.
        walk: Where it was met.
        node: The call.
        weight_node: Its weight as the call takes it, perhaps with turned axes.
        groups: Groups of channels that are computed apart.
        centre: The name of the running mean that batch-norm right after the call takes from its outputs; None without one.
    """

    name: str
    bias: str | None
    walk: Walk = field(repr=False)
    node: fx.Node = field(repr=False)
    weight_node: fx.Node = field(repr=False)
    groups: int = 1
    centre: str | None = None

    @property
    def kind(self) -> str:
        """The operator."""
        return operator_name(self.node.target)

    @property
    def bias_comes_after(self) -> bool:
        """Whether the bias is a sum after the call, and not in its outputs."""
        return self.kind in ("matmul", "mm")

    def rows(self, weight: Tensor) -> Tensor:
        """The weight as [groups, outputs of a group, inputs of an output], from the user's layout."""
        turned: Tensor = self.walk.turned(self.weight_node, weight)
        flat = turned.transpose(0, 1) if self.bias_comes_after else turned.flatten(1)
        return flat.reshape(self.groups, -1, flat.shape[1])

    def weight(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of :meth:`rows`."""
        places = self.rows(torch.arange(like.numel()).reshape(like.shape)).flatten()
        return torch.empty_like(like).flatten().index_copy_(0, places, rows.flatten().to(like.dtype)).reshape(like.shape)

    def positions(self, batch: int) -> int:
        """How many output positions there are in a batch: samples, times places of the kernel or of the sequence."""
        x: Tensor = self.walk.values[batch][self.node.args[0]]  # type: ignore[index]
        return len(x) * math.prod(self._places(x)) if self.is_convolution else x.numel() // x.shape[-1]

    def _places(self, x: Tensor) -> list[int]:
        """How often the kernel is laid along each axis of a convolution's input: nothing need be computed to know it."""
        arguments, kernel = self._arguments(), self.walk.shape(self.weight_node)[2:]
        reach = [(size - 1) * step for size, step in zip(kernel, arguments["dilation"], strict=True)]
        added = _padding(arguments["padding"], reach)
        lengths = zip(x.shape[2:], added, reach, arguments["stride"], strict=True)
        return [(length + sum(ends) - far - 1) // stride + 1 for length, ends, far, stride in lengths]

    def inputs(self, batch: int, chosen: Tensor) -> Tensor:
        """The inputs of these output positions in a batch: [groups, positions, inputs of an output]."""
        x: Tensor = self.walk.values[batch][self.node.args[0]]  # type: ignore[index]
        if not self.is_convolution:
            return x.reshape(-1, x.shape[-1])[chosen][None]
        arguments = self._arguments()
        places, kernel = self._places(x), self.walk.shape(self.weight_node)[2:]
        reach = [(size - 1) * step for size, step in zip(kernel, arguments["dilation"], strict=True)]
        x = F.pad(x, [end for ends in reversed(_padding(arguments["padding"], reach)) for end in ends])
        sample, rest = chosen // math.prod(places), chosen % math.prod(places)
        index: list[Tensor] = []
        for axis, length in enumerate(places):
            below = math.prod(places[axis + 1 :])
            first = rest // below % length * arguments["stride"][axis]
            taps = first[:, None] + torch.arange(kernel[axis]) * arguments["dilation"][axis]
            index.append(taps.reshape(len(chosen), *[-1 if other == axis else 1 for other in range(len(places))]))
        # Only what the chosen positions read is ever copied: [positions, kernel, channels].
        patches = x.movedim(1, -1)[(sample.reshape(-1, *[1] * len(places)), *index)]
        return patches.movedim(-1, 1).reshape(len(chosen), self.groups, -1).transpose(0, 1)

    def outputs(self, batch: int, chosen: Tensor) -> Tensor:
        """What the call gives at these positions: [groups, positions, outputs of a group]."""
        return self._picked(self.walk.compute(self.node, batch), chosen)

    def move(self, name: str, value: Tensor, shift: Tensor) -> None:
        """Let what follows compute with ``value`` in the place of ``name``, which adds ``shift`` to each output of this layer.

        Outputs that are known already move, and are not computed again.
        """
        known = [] if self.bias_comes_after or name != self.bias else [values.get(self.node) for values in self.walk.values]
        self.walk.replace(name, value)
        for values, y in zip(self.walk.values, known, strict=False):
            if y is not None:
                values[self.node] = y.add_(shift.to(y).reshape(-1, *[1] * (y.ndim - 2)) if self.is_convolution else shift.to(y))

    def activation(self) -> Callable[[Tensor], Tensor] | None:
        """The activation that alone reads the outputs, number by number; None where none does."""
        reader = _only_reader(self.node)
        if reader is None or operator_name(reader.target) not in ACTIVATIONS:
            return None
        return lambda values: self.walk.run(reader, {self.node: values}, 0)

    def normal_inputs(self) -> tuple[Tensor, Tensor, float, float] | None:
        """What the normalisation before a layer says of its inputs; None where there is none.

        Returns:
            Mean and deviation of each channel, and the ends that an activation clips them to.
        """
        source, low, high = self.node.args[0], -math.inf, math.inf
        if isinstance(source, fx.Node) and operator_name(source.target) in CLIPS:
            low, high = CLIPS[operator_name(source.target)](*source.args[1:])
            source = source.args[0]
        # The call that normalises gives its statistics, too: its first value is what is read.
        source = source.args[0] if isinstance(source, fx.Node) and source.target is operator.getitem else source
        if not isinstance(source, fx.Node) or not _normalises(source):
            return None
        gain, offset = (self.walk.constants.get(node) for node in source.args[1:3])  # type: ignore[arg-type]
        return None if gain is None or offset is None else (offset, gain, low, high)

    def _picked(self, y: Tensor, chosen: Tensor) -> Tensor:
        if self.is_convolution:
            flat = y.movedim(1, -1)
            return flat[torch.unravel_index(chosen, flat.shape[:-1])].reshape(len(chosen), self.groups, -1).transpose(0, 1)
        return y.reshape(-1, y.shape[-1])[chosen][None]

    @property
    def is_convolution(self) -> bool:
        """Whether channels come second, and positions are places of a kernel."""
        return self.kind.startswith("conv")

    def _arguments(self) -> dict[str, Any]:
        schema: Any = self.node.target._schema  # type: ignore[union-attr]  # noqa: SLF001
        found = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        found.update({argument.name: value for argument, value in zip(schema.arguments, self.node.args, strict=False)})
        axes = len(self.walk.shape(self.weight_node)) - 2
        return {
            name: value * axes if isinstance(value, list | tuple) and len(value) == 1 else value for name, value in found.items()
        }


class Walk:
    """Runs a captured network on calibration data, and stops at each layer.

    Between two layers one batch runs after the other, and values are dropped after their last reader: the memory in use is
    that of what is alive at one layer, its inputs above all.

    Args:
        network: Its edits are baked into the weights that the walk computes with.
        batches: Inputs of calibration samples.
    """

    def __init__(self, network: Network, batches: Sequence[tuple[Tensor, ...]]) -> None:
        program = export(network, decomposed=False)
        first = {alias: names[0] for alias, names in edits.aliases(network.module).items()}
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
        state = edits.state_dict(network.module)
        self.graph = program.graph
        self.constants: dict[fx.Node, Value] = {}
        self.names: dict[fx.Node, str] = {}
        self.buffers: dict[fx.Node, str] = {}
        inputs: list[fx.Node] = []
        for node in self.graph.nodes:
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
        self.inputs = inputs
        self.start(batches)

    def start(self, batches: Sequence[tuple[Tensor, ...]]) -> Walk:
        """Begin anew, on these inputs."""
        self.values: list[dict[fx.Node, Value]] = [dict(zip(self.inputs, batch, strict=True)) for batch in batches]
        return self

    def again(self, batches: Sequence[tuple[Tensor, ...]]) -> Walk:
        """Another walk of the same network, which need not be captured anew; what this one replaced, that one has not."""
        other = copying.copy(self)
        other.constants = dict(self.constants)
        return other.start(batches)

    def layer_names(self) -> set[str]:
        """The weights of all layers, without computing anything."""
        return {layer.name for node in self.graph.nodes if node.op == "call_function" and (layer := self._layer(node))}

    def layers(self) -> Iterator[Layer]:
        """Every layer whose weight is a parameter, before it is computed; :meth:`replace` changes what follows."""
        last = _last_readers(self.graph)
        passed: list[fx.Node] = []
        for node in self.graph.nodes:
            if node.op != "call_function":
                continue
            layer = self._layer(node)
            if layer is not None:
                self._advance(passed, last)
                passed = []
                yield layer
            passed.append(node)
        self._advance(passed, last)

    def _advance(self, nodes: Sequence[fx.Node], last: Mapping[fx.Node, list[fx.Node]]) -> None:
        for batch, values in enumerate(self.values):
            for node in nodes:
                self.compute(node, batch)
                for finished in last.get(node, ()):
                    values.pop(finished, None)

    @torch.no_grad()
    def compute(self, node: fx.Node, batch: int) -> Value:
        """The value of a node in a batch, from those that it reads."""
        values = self.values[batch]
        if node not in values:
            values[node] = self.run(node, values, batch)
        return values[node]

    @torch.no_grad()
    def run(self, node: fx.Node, values: Mapping[fx.Node, Value], batch: int) -> Value:
        """What a node gives on these values, and on those of the batch that are not among them."""
        standing = self.values[batch]
        read = fx.map_arg((node.args, node.kwargs), lambda source: values.get(source, self._value(source, standing)))
        return node.target(*read[0], **read[1])  # type: ignore[operator]

    def replace(self, name: str, value: Tensor) -> None:
        """Let what follows compute with another tensor in the place of the parameter or buffer ``name``."""
        for node, known in (self.names | self.buffers).items():
            if known == name:
                self.constants[node] = value
                self._forget(node)

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

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Value]) -> Value:
        return self.constants[node] if node in self.constants else values.get(node)

    def _forget(self, node: fx.Node) -> None:
        for user in node.users:
            for values in self.values:
                if values.pop(user, None) is not None:
                    self._forget(user)
        turned = [user for user in node.users if operator_name(user.target) in TURNS]
        for user in turned:
            for batch in range(len(self.values)):
                self.compute(user, batch)

    def _parameter(self, node: Any) -> fx.Node | None:
        """The parameter that a node is, but for the order of its axes."""
        while isinstance(node, fx.Node) and node.op == "call_function" and operator_name(node.target) in TURNS:
            node = node.args[0]
        return node if node in self.names else None

    def _layer(self, node: fx.Node) -> Layer | None:
        kind = operator_name(node.target)
        weight = node.args[1] if kind in _LAYERS and len(node.args) > 1 else None
        source = self._parameter(weight)
        if not isinstance(weight, fx.Node) or source is None or len(self.shape(weight)) != _LAYERS[kind]:
            return None
        bias = node.args[2] if len(node.args) > 2 and not kind.startswith(("matmul", "mm")) else self._added(node)
        name = self.names.get(bias) if isinstance(bias, fx.Node) else None
        layer = Layer(self.names[source], name, self, node, weight)
        layer.groups = layer._arguments()["groups"] if layer.is_convolution else 1  # noqa: SLF001
        layer.centre = self._centre(node)
        return layer

    def _centre(self, node: fx.Node) -> str | None:
        """The running mean of the batch-norm that alone reads ``node``."""
        reader = _only_reader(node)
        mean = reader.args[3] if reader is not None and _normalises(reader) else None
        return self.buffers.get(mean) if isinstance(mean, fx.Node) else None

    def _added(self, node: fx.Node) -> fx.Node | None:
        """The vector that a sum right after a matrix product adds."""
        users = list(node.users)
        if len(users) != 1 or operator_name(users[0].target) != "add":
            return None
        found = next((source for source in users[0].all_input_nodes if source in self.names), None)
        return found if found is not None and self.constants[found].ndim == 1 else None


_LAYERS = {"linear": 2, "matmul": 2, "mm": 2, "conv1d": 3, "conv2d": 4}
"""Operators that multiply by a weight, and the axes of the weight."""


def layer_of(name: str, layers: Iterator[Layer]) -> Layer:
    """The next layer with this weight; two walks of the same network meet their layers in the same order."""
    for layer in layers:
        if layer.name == name:
            return layer
    raise AssertionError(f"the other network has no layer {name}")


def _normalises(node: fx.Node) -> bool:
    return node.op == "call_function" and operator_name(node.target) == "batch_norm"


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _last_readers(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that nothing after it reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in (*node.all_input_nodes, node):
            last[source] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        found.setdefault(node, []).append(source)
    return found


def _padding(padding: Any, reach: Sequence[int]) -> list[tuple[int, int]]:
    """How many zeros a convolution adds before and after each axis, whose kernel reaches so far beyond one place."""
    if isinstance(padding, str):
        return [(far // 2, far - far // 2) if padding == "same" else (0, 0) for far in reach]
    return [(amount, amount) for amount in padding]
