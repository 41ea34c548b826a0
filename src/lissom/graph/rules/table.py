"""The table of axis rules by ATen operator, and the call that a rule sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.symbolic_shapes import optimization_hint

from lissom.graph.axes import ONE, Atom, Axis, atoms, freeze, size, tie

__all__ = ["Axes", "Call", "Rule", "Written", "operator_name", "rule", "rules"]

Axes = tuple[Axis, ...]
"""The axes of one tensor."""


@dataclass(frozen=True)
class Written:
    """A size that stands as a number in the call, so probably in an attribute of the module that made the call."""

    module: str
    value: int
    axis: Axis


@dataclass
class Call:
    """One call of an operator, as its rule sees it.

    Args:
        node: The call in the captured graph.
        where: The operator and the module it was called in, in words; reasons are built from it.
        module: Path of the module it was called in.
        owner: That module.
        arguments: The arguments by the operator's own names for them; tensors are nodes, symbolic sizes are numbers.
        axes_of: The axes of every tensor so far.
        constants: Values of the tensors that the network's code makes from numbers.
        work: For each product of two numbers that the call computes over and over: the axes it runs over (cost).
        written: Sizes that the call states as numbers.
    """

    node: fx.Node
    where: str
    module: str
    owner: nn.Module
    arguments: dict[str, Any]
    axes_of: dict[fx.Node, Any]
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)
    work: list[Axes] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    def axes(self, name: str) -> Axes:
        """The axes of the tensor argument ``name``; none for an argument that was left out."""
        return self.axes_at(self.arguments.get(name))

    def axes_at(self, node: Any) -> Axes:
        """The axes of a node of the graph; none where it is not a tensor."""
        found = self.axes_of.get(node, ()) if isinstance(node, fx.Node) else ()
        return found if isinstance(found, tuple) else ()

    def tensors(self) -> list[Axes]:
        """The axes of every tensor argument, in order."""
        return [self.axes_of[node] for node in self.node.all_input_nodes if isinstance(self.axes_of.get(node), tuple)]

    def result_lengths(self) -> list[tuple[int, ...]]:
        """The shape of each tensor that the call gives back."""
        found = self.node.meta.get("val")
        values = found if isinstance(found, (tuple, list)) else (found,)
        return [tuple(int(hint(length)) for length in value.shape) for value in values if isinstance(value, Tensor)]

    def tie(self, left: Axis, right: Axis) -> None:
        """Both axes lose the same positions from now on."""
        tie(left, right, self.where)

    def freeze(self, axes: Sequence[Axis], why: str) -> None:
        """No position of these axes can be removed."""
        for axis in axes:
            freeze(axis, f"{self.where} {why}")

    def fresh(self, length: int, why: str | None = None) -> Axis:
        """An axis that starts here; with a reason, one from which nothing can be removed."""
        return ONE if length == 1 else Atom(length, None if why is None else f"{self.where} {why}")

    def fresh_frozen(self, lengths: Sequence[int], why: str) -> Axes:
        """Axes that start here and from which nothing can be removed."""
        return tuple(self.fresh(length, why) for length in lengths)

    def states(self, value: int, axis: Axis) -> None:
        """The call gives the size of ``axis`` as the number ``value``."""
        if value > 1 and value == size(axis) and any(True for _ in atoms(axis)):
            self.written.append(Written(self.module, value, axis))

    def broadcast(self, shapes: Sequence[Axes]) -> Axes:
        """The axes of the broadcast of tensors: aligned from the right, ones stretch, the others are tied."""
        result: list[Axis] = []
        for place in range(1, max(map(len, shapes), default=0) + 1):
            aligned = [shape[-place] for shape in shapes if len(shape) >= place]
            long = [axis for axis in aligned if size(axis) != 1]
            for other in long[1:]:
                self.tie(long[0], other)
            result.insert(0, long[0] if long else ONE)
        return tuple(result)


Rule = Callable[[Call], Any]
"""From a call to the axes of its result: a tuple of axes, or a list of such tuples for several results."""

rules: dict[str, Rule] = {}
"""Every rule by the operator's name without overload: ``add``, ``conv2d``."""

Function = TypeVar("Function", bound=Rule)


def rule(*operators: str) -> Callable[[Function], Function]:
    """Register a function as the rule of these operators."""

    def register(function: Function) -> Function:
        rules.update(dict.fromkeys(operators, function))
        return function

    return register


PLAIN_NAMES = {
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "_fused_rms_norm": "rms_norm",
    "_to_copy": "to",
    "_unsafe_view": "view",
    "_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
}
"""Operators that torch calls by an internal name, by the name that people know."""


def operator_name(target: Any) -> str:
    """The operator's name without namespace, overload and the underscore of in-place forms."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return str(getattr(target, "__name__", target))
    name = str(schema.name).partition("::")[2]
    return PLAIN_NAMES.get(name, name[:-1] if name.endswith("_") and not name.endswith("__") else name)


DATA_LENGTH = 31
"""What stands for a length that only data gives, such as how many boxes are found: whatever is cut is proved by running."""


def hint(length: Any) -> int:
    """The number that a symbolic length stands for in the captured run."""
    return int(optimization_hint(length, fallback=DATA_LENGTH) if isinstance(length, torch.SymInt) else length)
