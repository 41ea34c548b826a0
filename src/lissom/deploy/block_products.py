"""Products of weights on 4-bit grids by ONNX Runtime's own kernel, which keeps two levels to a byte in memory, too."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from onnx import NodeProto, TensorProto

from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy.deployed import Binding
from lissom.deploy.editing import Editor, make_node
from lissom.deploy.operators import OPERATORS, weight_axis

__all__ = ["DOMAIN", "place_block_products"]

DOMAIN = "com.microsoft"
BLOCKS = (16, 32, 64, 128, 256)
"""Inputs that may share a scale."""
INTEGERS = 4
"""The kernel's ``accuracy_level``: activations are rounded to 8 bits, block by block, as they come. In float (1) the kernel is
slower than a product with weights that were decoded once."""


def place_block_products(editor: Editor, held: Mapping[str, Quantized]) -> list[Binding]:
    """Compute each product whose weight has 4-bit levels, and scales for blocks of its inputs, by ``MatMulNBits``, in place.

    Args:
        editor: The float graph.
        held: Levels of weights, by name.

    Returns:
        What the weights' constants hold.
    """
    users = editor.users()
    bindings: list[Binding] = []
    for node in [node for node in editor.nodes if node.op_type in ("MatMul", "Gemm")]:
        stored = held.get(node.input[1])
        if stored is None or not OPERATORS[node.op_type].takes(editor, node, set()) or len(users[node.input[1]]) > 1:
            continue
        order = editor.permutations.get(node.input[1], (0, 1))
        order = order if weight_axis(node) == 0 else order[::-1]  # outputs first, whatever the graph had
        if _fits(stored, order):
            bindings += _place(editor, node, stored, order)
    return bindings


def _fits(stored: Quantized, order: tuple[int, ...]) -> bool:
    if not isinstance(stored.decoding, Uniform) or stored.mask is not None or stored.decoding.zero_point.any():
        return False
    scale = stored.decoding.scale
    if stored.levels.ndim != 2 or scale.ndim != 2 or not -8 <= stored.levels.min() <= stored.levels.max() <= 7:
        return False
    outputs, inputs = (stored.levels.shape[axis] for axis in order)
    rows, blocks = (scale.shape[axis] for axis in order)
    return rows == outputs and inputs % blocks == 0 and inputs // blocks in BLOCKS


def _place(editor: Editor, node: NodeProto, stored: Quantized, order: tuple[int, ...]) -> list[Binding]:
    """The constants are the levels themselves; the runtime packs them once, when it loads the file."""
    assert isinstance(stored.decoding, Uniform)
    name, stem, moved = node.input[1], node.output[0], () if order == (0, 1) else order
    scale = stored.decoding.scale.transpose(order)
    outputs, inputs = stored.levels.transpose(order).shape
    block = inputs // scale.shape[1]
    editor.remove_constant(name)
    levels = editor.add_constant(f"{name}.levels", stored.levels.transpose(order).astype(ml_dtypes.int4))
    scales = editor.add_constant(f"{name}.scale", np.ascontiguousarray(scale))
    pairs = editor.add_constant(f"{name}.pairs", np.array([outputs, scale.shape[1], block // 2, 2]))
    eight, places, last = (
        editor.add_constant(f"{name}.{part}", np.array(values, kind))
        for part, values, kind in (("eight", 8, np.int32), ("places", (1, 16), np.int32), ("last", (-1,), np.int64))
    )
    wide, above, paired, placed, total, packed, product = (
        editor.fresh(f"{name}.{part}") for part in ("wide", "above", "paired", "placed", "total", "packed", "product")
    )
    biased = node.op_type == "Gemm" and len(node.input) > 2
    result = product if biased else stem
    editor.remove([node])
    editor.nodes += [
        make_node("Cast", [levels], [wide], to=TensorProto.INT32),
        make_node("Add", [wide, eight], [above]),
        make_node("Reshape", [above, pairs], [paired]),
        make_node("Mul", [paired, places], [placed]),
        make_node("ReduceSum", [placed, last], [total], keepdims=0),
        make_node("Cast", [total], [packed], to=TensorProto.UINT8),
        make_node("MatMulNBits", [node.input[0], packed, scales], [result], domain=DOMAIN, K=inputs, N=outputs, bits=4,
                  block_size=block, accuracy_level=INTEGERS),
        *([make_node("Add", [product, node.input[2]], [stem])] if biased else []),
    ]  # fmt: skip
    return [Binding(levels, name, "levels", moved), Binding(scales, name, "scale", moved)]
