"""Weights on grids in the deployed graph: integers with DequantizeLinear, codebooks as indices with a Gather."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

from lissom.codec.tensors import Quantized, Table, Uniform, spread
from lissom.deploy.deployed import Binding, Role
from lissom.deploy.editing import Editor, make_node

__all__ = ["is_multiplied", "level_type", "place_levels", "place_quantized"]

Array = npt.NDArray[Any]
WITH_BLOCKS = 21
"""The operator set from which DequantizeLinear takes 4 and 16 bits, and scales for blocks."""
WITH_AXIS = 13
"""The operator set from which it takes a scale for each position of an axis."""


def place_levels(editor: Editor, quantized: Mapping[str, Quantized]) -> list[Binding]:
    """Replace each constant that has levels by the levels themselves and the nodes that decode them.

    Args:
        editor: Its constants hold the values, perhaps permuted (see :attr:`Editor.permutations`).
        quantized: Levels and decoding by the constant's name.

    Returns:
        What the constants hold now, those that hold plain values among them.
    """
    bindings = []
    users = editor.users()
    for name in sorted(editor.parameters & set(editor.constants)):
        order = editor.permutations.get(name, ())
        stored = quantized.get(name)
        if stored is None or (stored.mask is not None and not _has_zero(stored)):
            bindings.append(Binding(name, name, "values", order))
        else:
            bindings.extend(place_quantized(editor, name, stored, order, spell_out=is_multiplied(users.get(name, []))))
    return bindings


def is_multiplied(readers: Iterable[NodeProto]) -> bool:
    """Whether a weight is a factor of a matrix product.

    ONNX Runtime makes one kernel of such a product and the DequantizeLinear before it, and that kernel rounds the
    activations to 8 bits, which nobody asked for.
    """
    return any(node.op_type in ("MatMul", "Gemm") for node in readers)


def place_quantized(
    editor: Editor,
    name: str,
    stored: Quantized,
    order: tuple[int, ...] = (),
    *,
    kind: npt.DTypeLike | None = None,
    with_zero_point: bool = False,
    spell_out: bool = False,
) -> list[Binding]:
    """Replace one constant by levels and their decoding; the constant's name becomes that of the decoded value.

    Args:
        editor: Changed in place.
        name: The constant.
        stored: Its levels and decoding, in the user's order of axes.
        order: The order in which the graph reads its axes.
        kind: The integer type of uniform levels; None for the smallest that holds them.
        with_zero_point: Whether zero points of 0 are written out as well.
        spell_out: Whether uniform levels are decoded by arithmetic in place of DequantizeLinear.
    """
    editor.remove_constant(name)
    if isinstance(stored.decoding, Table):
        return _place_table(editor, name, stored, order)
    if spell_out:
        return _place_arithmetic(editor, name, stored, order or tuple(range(stored.levels.ndim)))
    return _place_uniform(editor, name, stored, order, kind, with_zero_point)


def level_type(lowest: int, highest: int, opset: int = WITH_BLOCKS) -> npt.DTypeLike:
    """The smallest integer type, signed where it can be, that holds these levels and that DequantizeLinear takes."""
    for kind, low, high in (
        (ml_dtypes.int4, -8, 7), (ml_dtypes.uint4, 0, 15), (np.int8, -128, 127), (np.uint8, 0, 255),
        (np.int16, -(2**15), 2**15 - 1), (np.uint16, 0, 2**16 - 1),
    ):  # fmt: skip
        if low <= lowest and highest <= high and (opset >= WITH_BLOCKS or kind in (np.int8, np.uint8)):
            return kind
    return np.int32


def _has_zero(stored: Quantized) -> bool:
    return isinstance(stored.decoding, Table) and bool((stored.decoding.values == 0).any())


def _place_table(editor: Editor, name: str, stored: Quantized, order: tuple[int, ...]) -> list[Binding]:
    assert isinstance(stored.decoding, Table)
    levels = stored.levels.transpose(order) if order else stored.levels
    kind = np.uint8 if stored.decoding.values.size <= 256 else np.uint16
    indices = editor.add_constant(f"{name}.levels", levels.astype(kind))
    table = editor.add_constant(f"{name}.table", stored.decoding.values)
    wide = editor.fresh(f"{name}.indices")
    # Gather takes no 8-bit indices; the runtime folds both nodes when it loads the file.
    editor.nodes.insert(0, make_node("Gather", [table, wide], [name], axis=0))
    editor.nodes.insert(0, make_node("Cast", [indices], [wide], to=TensorProto.INT32))
    return [Binding(indices, name, "levels", order), Binding(table, name, "table")]


def _place_uniform(
    editor: Editor, name: str, stored: Quantized, order: tuple[int, ...], kind: npt.DTypeLike | None, with_zero_point: bool
) -> list[Binding]:
    decoding = stored.decoding
    assert isinstance(decoding, Uniform)
    order = order or tuple(range(stored.levels.ndim))
    moved = () if order == tuple(range(stored.levels.ndim)) else order
    levels = stored.levels.transpose(order)
    scale, zero, fields, axis = _for_onnx(decoding, stored.levels.shape, order)
    ends = np.array([levels.min(initial=0), levels.max(initial=0), zero.min(), zero.max()])
    if editor.opset < _needed(fields, ends):
        return _place_arithmetic(editor, name, stored, order)
    kind = kind or level_type(int(ends.min()), int(ends.max()), editor.opset)
    inputs = [editor.add_constant(f"{name}.levels", levels.astype(kind)), editor.add_constant(f"{name}.scale", scale)]
    bindings = [Binding(inputs[0], name, "levels", moved), Binding(inputs[1], name, "scale", moved, axis)]
    if with_zero_point or zero.any():
        inputs.append(editor.add_constant(f"{name}.zero_point", zero.astype(kind)))
        bindings.append(Binding(inputs[2], name, "zero_point", moved, axis))
    editor.nodes.insert(0, make_node("DequantizeLinear", inputs, [name], **fields))
    return bindings


def _needed(fields: Mapping[str, Any], ends: Array) -> int:
    """The operator set whose DequantizeLinear decodes these levels."""
    byte = (ends.min() >= -128 and ends.max() <= 127) or (ends.min() >= 0 and ends.max() <= 255)
    return WITH_BLOCKS if "block_size" in fields or not byte else WITH_AXIS if fields else 10


def _place_arithmetic(editor: Editor, name: str, stored: Quantized, order: tuple[int, ...]) -> list[Binding]:
    """What DequantizeLinear computes, spelled out: ``(level - zero_point) * scale``, in any operator set.

    A scale of a block is looked up for each of its positions. The runtime computes all of it once, when it loads the file.
    """
    assert isinstance(stored.decoding, Uniform)
    moved = () if order == tuple(range(len(order))) else order
    entries = stored.decoding.scale.shape or (1,) * len(order)
    zero = stored.decoding.zero_point
    lowest = int(min(stored.levels.min(initial=0), zero.min()))
    highest = int(max(stored.levels.max(initial=0), zero.max()))
    small = level_type(lowest, highest) if editor.opset >= WITH_BLOCKS else np.int8
    kinds = (small, np.int8, np.uint8, np.int16, np.uint16, np.int32)
    kind = next(kind for kind in kinds if _holds(kind, lowest, highest))
    constants = {"levels": stored.levels.transpose(order).astype(kind)}
    if zero.any():
        constants["zero_point"] = zero.astype(kind).reshape(entries).transpose(order)
    constants["scale"] = stored.decoding.scale.reshape(entries).transpose(order)
    names = {role: editor.add_constant(f"{name}.{role}", values) for role, values in constants.items()}
    nodes: list[NodeProto] = []

    def add(operator: str, *inputs: str, **fields: Any) -> str:
        nodes.append(make_node(operator, inputs, [editor.fresh(f"{name}.{operator.lower()}")], **fields))
        return nodes[-1].output[0]

    value = add("Cast", names["levels"], to=TensorProto.FLOAT)
    for role, operator in (("zero_point", "Sub"), ("scale", "Mul")):
        if role in names:
            factor = names[role] if role == "scale" else add("Cast", names[role], to=TensorProto.FLOAT)
            for axis, (length, count) in enumerate(zip(constants["levels"].shape, constants[role].shape, strict=True)):
                if 1 < count < length:
                    block = np.arange(length, dtype=np.int32) // -(-length // count)
                    factor = add("Gather", factor, editor.add_constant(f"{name}.block", block), axis=axis)
            value = add(operator, value, factor)
    nodes[-1].output[0] = name
    editor.nodes[:0] = nodes
    return [Binding(names["levels"], name, "levels", moved), *_of_scales(names, name, moved)]


def _of_scales(names: Mapping[str, str], name: str, moved: tuple[int, ...]) -> list[Binding]:
    roles: tuple[Role, ...] = ("scale", "zero_point")
    return [Binding(names[role], name, role, moved) for role in roles if role in names]


def _holds(kind: Any, lowest: int, highest: int) -> bool:
    limits: Any = ml_dtypes.iinfo(kind)  # type: ignore[no-untyped-call]
    return bool(limits.min <= lowest and highest <= limits.max)


def _for_onnx(
    decoding: Uniform, shape: tuple[int, ...], order: tuple[int, ...]
) -> tuple[Array, Array, dict[str, Any], int | None]:
    """Scale and zero point as DequantizeLinear takes them, its attributes, and the axis of a one-axis scale.

    ONNX knows one scale, one per position of one axis, or one per block along one axis and position of all others;
    what is finer than the first two is spread out to the third.
    """
    if decoding.scale.size == 1:
        return decoding.scale.reshape(()), decoding.zero_point.reshape(()), {}, None
    several = [axis for axis, length in enumerate(decoding.scale.shape) if length > 1]
    if len(several) == 1 and decoding.scale.shape[several[0]] == shape[several[0]]:
        return decoding.scale.ravel(), decoding.zero_point.ravel(), {"axis": order.index(several[0])}, several[0]
    blocked = next((axis for axis in reversed(several) if decoding.scale.shape[axis] != shape[axis]), several[-1])
    target = tuple(decoding.scale.shape[axis] if axis == blocked else length for axis, length in enumerate(shape))
    scale, zero = (
        np.broadcast_to(spread(array, target), target).transpose(order) for array in (decoding.scale, decoding.zero_point)
    )
    size = -(-shape[blocked] // decoding.scale.shape[blocked])
    return scale, zero, {"axis": order.index(blocked), "block_size": size}, None
