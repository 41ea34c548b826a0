"""Layers: the calls of a network that multiply by a weight, and what each reads and gives on calibration data."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from lissom.graph.rules import operator_name

if TYPE_CHECKING:
    from lissom.calibrate.walk import Walk

__all__ = ["TURNS", "Layer", "layer_of", "normalises", "only_reader"]

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
        x: Tensor = self.walk.value(self.node.args[0], batch)
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
        x: Tensor = self.walk.value(self.node.args[0], batch)
        if not self.is_convolution:
            return x.reshape(-1, x.shape[-1])[chosen][None]
        arguments = self._arguments()
        places, kernel = self._places(x), self.walk.shape(self.weight_node)[2:]
        reach = [(size - 1) * step for size, step in zip(kernel, arguments["dilation"], strict=True)]
        before = [ends[0] for ends in _padding(arguments["padding"], reach)]
        sample, rest = chosen // math.prod(places), chosen % math.prod(places)
        index: list[Tensor] = []
        within = torch.ones(len(chosen), *kernel, dtype=torch.bool)
        for axis, length in enumerate(places):
            below = math.prod(places[axis + 1 :])
            first = rest // below % length * arguments["stride"][axis] - before[axis]
            taps = first[:, None] + torch.arange(kernel[axis]) * arguments["dilation"][axis]
            taps = taps.reshape(len(chosen), *[-1 if other == axis else 1 for other in range(len(places))])
            within &= (taps >= 0) & (taps < x.shape[2 + axis])
            index.append(taps.clamp(0, x.shape[2 + axis] - 1))
        # Only what the chosen positions read is ever copied: [positions, kernel, channels]; beside the input there is zero.
        patches = x.movedim(1, -1)[(sample.reshape(-1, *[1] * len(places)), *index)]
        if not within.all():
            patches.mul_(within[..., None])
        return patches.movedim(-1, 1).reshape(len(chosen), self.groups, -1).transpose(0, 1)

    def outputs(self, batch: int, chosen: Tensor) -> Tensor:
        """What the call gives at these positions: [groups, positions, outputs of a group]."""
        return self._picked(self.walk.value(self.node, batch), chosen)

    def move(self, name: str, value: Tensor, shift: Tensor) -> None:
        """Let what follows compute with ``value`` in the place of ``name``, which adds ``shift`` to each output of this layer.

        Outputs that are known already move, and are not computed again.
        """
        if self.bias_comes_after or name != self.bias:
            self.walk.replace(name, value)
        else:
            axes = self.walk.shape(self.weight_node)[2:]
            self.walk.replace(name, value, moves={self.node: shift.reshape(-1, *[1] * len(axes))})

    def activation(self) -> Callable[[Tensor], Tensor] | None:
        """The activation that alone reads the outputs, number by number; None where none does."""
        reader = only_reader(self.node)
        if reader is None or operator_name(reader.target) not in ACTIVATIONS:
            return None
        return lambda values: self.walk.run(reader, {self.node: values})

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
        if not isinstance(source, fx.Node) or not normalises(source):
            return None
        gain, offset = (self.walk.constant(node) for node in source.args[1:3])
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


def layer_of(name: str, layers: Iterator[Layer]) -> Layer:
    """The next layer with this weight; two walks of the same network meet their layers in the same order."""
    for layer in layers:
        if layer.name == name:
            return layer
    raise AssertionError(f"the other network has no layer {name}")


def normalises(node: fx.Node) -> bool:
    """Whether a call is batch-norm."""
    return node.op == "call_function" and operator_name(node.target) == "batch_norm"


def only_reader(node: fx.Node) -> fx.Node | None:
    """The one call that reads a value; None where several do, or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def _padding(padding: Any, reach: Sequence[int]) -> list[tuple[int, int]]:
    """How many zeros a convolution adds before and after each axis, whose kernel reaches so far beyond one place."""
    if isinstance(padding, str):
        return [(far // 2, far - far // 2) if padding == "same" else (0, 0) for far in reach]
    return [(amount, amount) for amount in padding]
