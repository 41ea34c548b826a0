"""Integer graphs: which nodes of a float graph are computed in integers, and the QuantizeLinear pairs of their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from lissom import edits
from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy.deployed import Binding
from lissom.deploy.editing import Editor, attributes, make_node
from lissom.deploy.operators import OPERATORS, weight_axis

__all__ = ["Plan", "Steps", "embeddings", "ends", "integer_steps", "left_in_float", "place", "plan", "starts_at_zero"]

Array = npt.NDArray[Any]
FREE = {"Relu", "Clip"}
"""Operators that cost nothing: the integer type's own ends do what they do."""
COSTLY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Softmax", "LayerNormalization", "Gather", "Einsum"}
DTYPES: dict[tuple[int, bool], npt.DTypeLike] = {
    (8, False): np.uint8, (8, True): np.int8, (4, False): ml_dtypes.uint4, (4, True): ml_dtypes.int4,
}  # fmt: skip
"""The integer type of so many bits, unsigned or signed."""


@dataclass
class Plan:
    """What is computed in integers.

    Args:
        nodes: The nodes, in the order of the graph.
        integers: Values that these nodes give as integers.
        absorbed: Relu and Clip nodes that follow one of them, by the value that they read.
        observed: Values whose ranges are needed.
        shared: Values that have the scale of another, which they only move or choose from.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    integers: set[str] = field(default_factory=set)
    absorbed: dict[str, NodeProto] = field(default_factory=dict)
    observed: list[str] = field(default_factory=list)
    shared: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Steps:
    """The integers of one value: ``level = round(value / scale) + zero_point``."""

    scale: np.float32
    zero_point: int
    dtype: npt.DTypeLike


def plan(editor: Editor, held: Mapping[str, Quantized], keep_float: Sequence[str] = (), *, weighted_only: bool = False) -> Plan:
    """Decide which nodes are computed in integers.

    A weighted operator (convolution, Gemm, MatMul with a constant) is; operators that move, choose or add values are
    where they stand between such operators, so that nothing goes to float and back for their sake.

    Args:
        editor: The float graph.
        held: Weights that take their values from a grid: only integer grids of up to 8 bits can be computed with.
        keep_float: Globs over names of nodes, values and weights that stay float. What such a node reads is not rounded either,
            so that an operator which can only give integers stays float before it.
        weighted_only: Quantize what weighted operators read and nothing else: for integers that no kernel computes with,
            where sums in fewer bits would cost accuracy and save nothing.
    """
    editor.sort()
    users = editor.users()
    made = Plan()
    floats = _read_in_float(editor, keep_float)
    for node in editor.nodes:
        rule = OPERATORS.get(node.op_type)
        if (
            rule is None
            or (weighted_only and rule.weight is None)
            or (rule.needs_output and not weighted_only and node.output[0] in floats)
            or _kept(node, keep_float)
            or not rule.takes(editor, node, made.integers)
            or not _usable(editor, node, held)
        ):
            continue
        made.nodes.append(node)
        output = node.output[0]
        if weighted_only or output in floats:
            continue
        free = _free_follower(editor, node, users)
        if rule.needs_output or _read_by_weighted(free or node, users):
            if free is not None and not rule.same_scale:
                made.absorbed[output] = free
                output = free.output[0]
            made.integers.add(output)
    _drop_pointless(made, users)
    chosen = {id(node) for node in made.nodes}
    for node in made.nodes:
        values = [name for name in node.input if name and name not in editor.constants]
        if OPERATORS[node.op_type].same_scale:
            values = values[:1]
            made.shared[node.output[0]] = node.input[0]
        made.observed += [name for name in values if name not in made.shared]
        output = made.absorbed[node.output[0]].output[0] if node.output[0] in made.absorbed else node.output[0]
        if output in made.integers and output not in made.shared and id(node) in chosen:
            made.observed.append(output)
    made.observed = list(dict.fromkeys(made.observed))
    return made


def _kept(node: NodeProto, globs: Sequence[str]) -> bool:
    names = [node.name, *node.output, *node.input]
    return any(fnmatchcase(name, glob) or fnmatchcase(name.replace(".folded", ""), glob) for glob in globs for name in names)


def _read_in_float(editor: Editor, keep_float: Sequence[str]) -> set[str]:
    """The values that nodes which stay float read, also through operators that only move or cut off."""
    found: set[str] = set()
    for node in reversed(editor.nodes):
        if _kept(node, keep_float):
            found.update(node.input)
        elif node.output[0] in found and (
            node.op_type in FREE or (node.op_type in OPERATORS and OPERATORS[node.op_type].same_scale)
        ):
            found.add(node.input[0])
    return found


def _usable(editor: Editor, node: NodeProto, held: Mapping[str, Quantized]) -> bool:
    """Whether the levels that the weight has already, if any, are ones that integer kernels take."""
    position = OPERATORS[node.op_type].weight
    stored = None if position is None else held.get(node.input[position])
    if stored is None:
        return True
    if not isinstance(stored.decoding, Uniform) or stored.decoding.zero_point.any() or not stored.levels.size:
        return False
    several = [axis for axis, length in enumerate(stored.decoding.scale.shape) if length > 1]
    order = editor.permutations.get(node.input[position or 0], tuple(range(stored.levels.ndim)))
    along = [
        axis
        for axis in several
        if order.index(axis) == weight_axis(node) and stored.decoding.scale.shape[axis] == stored.shape[axis]
    ]
    return several == along and int(stored.levels.min()) >= -128 and int(stored.levels.max()) <= 127


def _free_follower(editor: Editor, node: NodeProto, users: Mapping[str, list[NodeProto]]) -> NodeProto | None:
    """The Relu or Clip that alone reads a node's output."""
    readers = users.get(node.output[0], [])
    if len(readers) != 1 or readers[0].op_type not in FREE or node.output[0] in editor.outputs:
        return None
    return readers[0] if all(not name or name in editor.constants for name in readers[0].input[1:]) else None


def _read_by_weighted(node: NodeProto, users: Mapping[str, list[NodeProto]]) -> bool:
    readers = users.get(node.output[0], [])
    return bool(readers) and all(reader.op_type in ("Conv", "Gemm") for reader in readers)


def _drop_pointless(made: Plan, users: Mapping[str, list[NodeProto]]) -> None:
    """Leave out operators without weights whose integers nobody computes with."""
    for node in reversed(made.nodes.copy()):
        if OPERATORS[node.op_type].weight is not None:
            continue
        output = made.absorbed[node.output[0]].output[0] if node.output[0] in made.absorbed else node.output[0]
        if not any(reader in made.nodes for reader in users.get(output, [])):
            made.nodes.remove(node)
            made.integers.discard(output)
            made.absorbed.pop(node.output[0], None)


def ends(made: Plan) -> tuple[str, ...]:
    """What the first and the last operator with weights read: values that keep 8 bits where others have fewer."""
    weighted = [node for node in made.nodes if OPERATORS[node.op_type].weight is not None]
    return () if not weighted else (weighted[0].input[0], weighted[-1].input[0])


def left_in_float(editor: Editor, made: Plan) -> str | None:
    """A sentence that names the operators of weight that stay in float; None where there are none."""
    chosen = {id(node) for node in made.nodes}
    left = [node for node in editor.nodes if node.op_type in COSTLY and id(node) not in chosen and not _looks_up(editor, node)]
    if not left:
        return None
    kinds = Counter(node.op_type for node in left)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"left in float: {named} (the first is {_called(editor, left[0])})"


def _called(editor: Editor, node: NodeProto) -> str:
    """The user's name of the layer whose weight a node reads; the node's own where it reads none."""
    weight = next((name for name in node.input if name in editor.parameters), None)
    layer = "" if weight is None else edits.users_name(weight).rpartition(".")[0]
    return layer or node.name or node.output[0]


def _looks_up(editor: Editor, node: NodeProto) -> bool:
    """Whether a Gather takes no rows of trained floats: of levels (see :func:`embeddings`), of a shape …"""
    table = editor.constants.get(node.input[0]) if node.op_type == "Gather" else None
    return node.op_type == "Gather" and (node.input[0] not in editor.parameters or table is None or table.dtype != np.float32)


def integer_steps(low: float, high: float, *, signed: bool, symmetric: bool, bits: int = 8) -> Steps:
    """Scale and zero point of integers that cover ``low … high``; zero is always one of their values.

    >>> integer_steps(0.0, 6.0, signed=False, symmetric=False).zero_point
    0
    """
    half, last = 2 ** (bits - 1), 2**bits - 1
    if symmetric:
        largest = max(-low, high)
        return Steps(np.float32(largest / (half - 1) or 1.0), 0, DTYPES[bits, True])
    scale = np.float32((high - low) / last or 1.0)
    zero = int(np.clip(round(-low / float(scale)), 0, last))
    return Steps(scale, zero - half if signed else zero, DTYPES[bits, signed])


def place(
    editor: Editor,
    made: Plan,
    steps: Mapping[str, Steps],
    *,
    symmetric: bool = False,
    own_scales: bool = False,
) -> None:
    """Put QuantizeLinear pairs for activations into the graph, in place; weights stay as they are.

    Args:
        editor: The float graph that the plan was made for (or a copy of it).
        made: What is computed in integers; its nodes are the editor's own.
        steps: The integers of each observed value.
        symmetric: Whether activations have zero point 0.
        own_scales: Whether each value has a scale constant of its own, to be trained; otherwise equal ones are shared.
    """
    every = dict(steps)
    for output, source in made.shared.items():
        if output in made.integers:
            every[output] = every[source]
    _absorb(editor, made, symmetric=symmetric)
    _place_pairs(editor, made, every, own_scales=own_scales)


def _absorb(editor: Editor, made: Plan, *, symmetric: bool) -> None:
    """Take out each Relu and Clip whose ends are the ends of its integers; the value keeps the name of its output."""
    producers = editor.producers()
    for value, free in made.absorbed.items():
        if symmetric and not _is_symmetric(editor, free):
            continue  # without a zero point the integers go below zero: the Relu must stay
        node = producers[value]
        node.output[0] = free.output[0]
        editor.remove([free])


def _is_symmetric(editor: Editor, free: NodeProto) -> bool:
    if free.op_type != "Clip" or len(free.input) < 3 or not (free.input[1] and free.input[2]):
        return False
    return bool(editor.constants[free.input[1]] == -editor.constants[free.input[2]])


def _place_pairs(editor: Editor, made: Plan, steps: Mapping[str, Steps], *, own_scales: bool) -> None:
    """QuantizeLinear and DequantizeLinear for every value; what gives integers is read by all through the pair."""
    constants: dict[Any, str] = {}

    def shared(stem: str, value: Array) -> str:
        """One constant for all equal values, unless each scale is to be its own."""
        key = (value.dtype.name, value.item())
        if own_scales and value.dtype == np.float32:
            return editor.add_constant(stem, value)
        if key not in constants:
            constants[key] = editor.add_constant(stem, value)
        return constants[key]

    producers = editor.producers()
    for name, step in steps.items():
        scale = shared(f"{name}.scale" if own_scales else "scale", np.array(step.scale, np.float32))
        zero = shared("zero_point", np.array(step.zero_point, step.dtype))
        levels = editor.fresh(f"{name}.levels")
        if name in made.integers:
            # The pair takes over the value's name, so that every reader, and a graph output, reads through it.
            source, restored = editor.fresh(f"{name}.float"), name
            node = producers[name]
            node.output[list(node.output).index(name)] = source
        else:
            source, restored = _before_free(editor, producers, name, step), editor.fresh(f"{name}.quantized")
            editor.replace_uses(name, restored, among=made.nodes)
        editor.nodes.append(make_node("QuantizeLinear", [source, scale, zero], [levels]))
        editor.nodes.append(make_node("DequantizeLinear", [levels, scale, zero], [restored]))


def _before_free(editor: Editor, producers: Mapping[str, NodeProto], name: str, step: Steps) -> str:
    """What a 4-bit quantizer reads in the place of a Relu or Clip: the integers' own ends do the same.

    ONNX Runtime 1.32 cannot load a file in which a 4-bit QuantizeLinear follows one of these.
    """
    node = producers.get(name)
    narrow = np.dtype(step.dtype) in (np.dtype(ml_dtypes.uint4), np.dtype(ml_dtypes.int4))
    return node.input[0] if narrow and node is not None and starts_at_zero(editor, node) else name


def starts_at_zero(editor: Editor, node: NodeProto) -> bool:
    """Whether a node cuts off what is below zero, and perhaps what is above an end."""
    if node.op_type == "Clip":
        return len(node.input) > 1 and bool(node.input[1]) and bool(editor.constants.get(node.input[1], np.array(1.0)) == 0)
    return node.op_type == "Relu"


def embeddings(editor: Editor, held: Mapping[str, Quantized], smallest: int = 2**16) -> list[Binding]:
    """Store large embedding tables as 8-bit levels with one scale per row, in place: they are looked up, not computed with."""
    users = editor.users()
    bindings: list[Binding] = []
    for name in sorted(editor.parameters & set(editor.constants)):
        table = editor.constants[name]
        readers = users.get(name, [])
        looked_up = readers and all(
            n.op_type == "Gather" and n.input[0] == name and attributes(n).get("axis", 0) == 0 for n in readers
        )
        if not looked_up or table.ndim != 2 or table.size < smallest or name in held or table.dtype != np.float32:
            continue
        largest = np.abs(table).max(1, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        levels = editor.add_constant(f"{name}.levels", np.clip(np.rint(table / scale), -127, 127).astype(np.int8))
        scales = editor.add_constant(f"{name}.scale", scale)
        for node in readers:
            rows, wide, factors = (editor.fresh(f"{node.output[0]}.{part}") for part in ("levels", "wide", "scale"))
            editor.nodes.append(make_node("Gather", [levels, node.input[1]], [rows], axis=0))
            editor.nodes.append(make_node("Gather", [scales, node.input[1]], [factors], axis=0))
            editor.nodes.append(make_node("Cast", [rows], [wide], to=TensorProto.FLOAT))
            editor.nodes.append(make_node("Mul", [wide, factors], list(node.output)))
        editor.remove(readers)
        del editor.constants[name]
        bindings += [Binding(levels, name, "levels"), Binding(scales, name, "scale", (), 0)]
    return bindings
