"""Integer weights and biases of a graph whose activations have their QuantizeLinear pairs already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy.deployed import Binding
from lissom.deploy.editing import Editor, make_node
from lissom.deploy.operators import OPERATORS, weight_axis
from lissom.deploy.weights import WITH_BLOCKS, place_quantized

__all__ = ["IntegerTypes", "integer_nodes", "place_weights", "weight_levels"]

Array = npt.NDArray[Any]
LARGEST_BIAS = 2**30


@dataclass(frozen=True)
class IntegerTypes:
    """What ``"U8S8"`` says: the sign and bits of activations, then of weights.

    >>> IntegerTypes.of("U8S4")
    IntegerTypes(signed=False, activation_bits=8, unsigned_weights=False, weight_bits=4)
    """

    signed: bool
    activation_bits: int
    unsigned_weights: bool
    weight_bits: int

    @classmethod
    def of(cls, name: str) -> Self:
        """The types that ``name`` stands for."""
        return cls(name[0] == "S", int(name[1]), name[2] == "U", int(name[3]))

    @property
    def wide(self) -> Self:
        """The same with at least 8 bits (7-bit weights stay): what the first and the last layer have."""
        bits = self.weight_bits if self.weight_bits > 4 else 8
        return replace(self, activation_bits=8, weight_bits=bits)


def integer_nodes(editor: Editor) -> list[tuple[NodeProto, np.float32]]:
    """The weighted nodes whose input comes through a QuantizeLinear pair, in order, with the scale of that input."""
    producers = editor.producers()
    found = []
    for node in editor.nodes:
        rule = OPERATORS.get(node.op_type)
        source = producers.get(node.input[0]) if rule is not None and rule.weight is not None else None
        if source is not None and source.op_type == "DequantizeLinear" and node.input[1] in editor.constants:
            found.append((node, np.float32(editor.constants[source.input[1]])))
    return found


def place_weights(
    editor: Editor,
    held: Mapping[str, Quantized],
    types: IntegerTypes,
    *,
    integer_bias: frozenset[str] = frozenset({"Gemm"}),
) -> list[Binding]:
    """Store the weights of integer nodes as levels, in place; the first and the last of them in 8 bits.

    Args:
        editor: Its activations have their pairs (:func:`lissom.deploy.integers.place`).
        held: Levels that weights have already; the others are rounded to nearest, one scale per output channel.
        types: Of activations and weights.
        integer_bias: Operators whose bias must be stored as an integer. The runtime adds any bias to sums of integers, so that
            the others are rounded to the same steps and stay float: the file then says what the runtime computes.

    Returns:
        What the integer weights hold.
    """
    nodes = integer_nodes(editor)
    bindings: dict[str, list[Binding]] = {}
    scales: dict[str, Array] = {}
    for number, (node, input_scale) in enumerate(nodes):
        weight = node.input[1]
        if weight not in bindings:
            kinds = types.wide if number in (0, len(nodes) - 1) else types
            stored = held.get(weight) or weight_levels(editor, node, weight, kinds.weight_bits)
            stored = _with_room_for_bias(editor, node, stored, input_scale)
            scales[weight] = np.asarray(stored.decoding.scale).ravel()  # type: ignore[union-attr]
            bindings[weight] = _place_weight(editor, weight, stored, kinds)
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in editor.constants else None
        if bias is None or types.activation_bits < 8 or len(editor.users()[bias]) > 1:  # steps of 4 bits are coarse
            continue
        if node.op_type in integer_bias:
            bindings[bias] = _place_bias(editor, bias, input_scale * scales[weight])
        else:
            editor.constants[bias] = _bias_levels(editor, bias, input_scale * scales[weight]).dense()
    return [binding for several in bindings.values() for binding in several]


def weight_levels(editor: Editor, node: NodeProto, name: str, bits: int) -> Quantized:
    """Symmetric levels, one scale per output channel, in the user's order of axes."""
    values = editor.constants[name].astype(np.float64)
    axis = weight_axis(node)
    highest = 2 ** (bits - 1) - 1
    others = tuple(other for other in range(values.ndim) if other != axis)
    scale = np.abs(values).max(others, keepdims=True) / highest
    scale32 = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    levels = np.clip(np.rint(values / scale32), -highest, highest).astype(np.int32)
    order = editor.permutations.get(name, tuple(range(values.ndim)))
    back = np.argsort(order)
    return Quantized(levels.transpose(back), Uniform(scale32.transpose(back), np.zeros(scale32.shape, np.int32).transpose(back)))


def _with_room_for_bias(editor: Editor, node: NodeProto, stored: Quantized, input_scale: np.float32) -> Quantized:
    """Coarser levels for channels of tiny weights beside a large bias, whose bias would not fit into 32 bits.

    The runtime writes the bias in steps of the weight's scale times the input's, whether or not the file has it as integers, and
    adds products to it. Beyond 32 bits the sum wraps around: a channel that normalisation has all but switched off then
    answers at random. One of the coarser steps is 2^-30 of the bias, so that nothing is lost.
    """
    if len(node.input) < 3 or node.input[2] not in editor.constants:
        return stored
    assert isinstance(stored.decoding, Uniform)
    bias = np.abs(editor.constants[node.input[2]].astype(np.float64)).reshape(-1)
    axis = editor.permutations.get(node.input[1], tuple(range(stored.levels.ndim)))[weight_axis(node)]
    scale = stored.decoding.scale
    if bias.size != stored.levels.shape[axis] or scale.size not in (1, bias.size):
        return stored
    least = bias / (float(input_scale) * LARGEST_BIAS)
    shape = [-1 if other == axis else 1 for other in range(stored.levels.ndim)]
    least = (least if scale.size > 1 else least.max(keepdims=True)).reshape(shape if scale.ndim else ())
    if (scale >= least).all():
        return stored
    coarser = np.maximum(scale, least).astype(np.float32)
    levels = np.where(scale >= least, stored.levels, np.rint(stored.levels * (scale / coarser))).astype(np.int32)
    return replace(stored, levels=levels, decoding=replace(stored.decoding, scale=coarser), trellis=0)


def _place_weight(editor: Editor, name: str, stored: Quantized, types: IntegerTypes) -> list[Binding]:
    assert isinstance(stored.decoding, Uniform)
    order = editor.permutations.get(name, ())
    narrow = editor.opset >= WITH_BLOCKS and -8 <= int(stored.levels.min()) <= int(stored.levels.max()) <= 7
    if narrow and types.weight_bits <= 4:
        return _place_four_bits(editor, name, stored, order, widen=types.activation_bits == 8)
    kind: npt.DTypeLike = np.int8
    if types.unsigned_weights:
        shifted = Uniform(stored.decoding.scale, stored.decoding.zero_point + 128)
        stored, kind = Quantized((stored.levels + 128).astype(np.int32), shifted), np.uint8
    # ONNX Runtime computes a Gemm in integers only where the weight's zero points are written out.
    return place_quantized(editor, name, stored, order, kind=kind, with_zero_point=True)


def _place_four_bits(editor: Editor, name: str, stored: Quantized, order: tuple[int, ...], *, widen: bool) -> list[Binding]:
    """Two levels to a byte. For integer kernels they are cast to int8, which the runtime does once, when it loads the file."""
    bindings = place_quantized(editor, name, stored, order, kind=np.int8 if widen else ml_dtypes.int4, with_zero_point=True)
    if not widen:
        return bindings
    levels = bindings[0].initializer
    packed = editor.fresh(f"{levels}.packed")
    editor.constants[packed] = editor.constants.pop(levels).astype(ml_dtypes.int4)
    editor.nodes.insert(0, make_node("Cast", [packed], [levels], to=TensorProto.INT8))
    return [replace(bindings[0], initializer=packed), *bindings[1:]]


def _place_bias(editor: Editor, name: str, scale: Array) -> list[Binding]:
    return place_quantized(editor, name, _bias_levels(editor, name, scale), kind=np.int32)


def _bias_levels(editor: Editor, name: str, scale: Array) -> Quantized:
    values = editor.constants[name].astype(np.float64)
    scale32 = np.broadcast_to(scale, values.shape).astype(np.float32)
    levels = np.rint(values / scale32).astype(np.int32)
    return Quantized(levels, Uniform(scale32, np.zeros(scale32.shape, np.int32)))
