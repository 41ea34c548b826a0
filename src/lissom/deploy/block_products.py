"""Products of weights on 4-bit grids by ONNX Runtime's own kernel, which keeps two levels to a byte in memory, too."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto

from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy.deployed import Binding
from lissom.deploy.editing import Editor, make_node
from lissom.deploy.operators import OPERATORS, weight_axis
from lissom.deploy.skeleton import pack

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
    assert isinstance(stored.decoding, Uniform)
    name, stem, moved = node.input[1], node.output[0], () if order == (0, 1) else order
    scale, levels = stored.decoding.scale.transpose(order), stored.levels.transpose(order)
    outputs, inputs = levels.shape
    block = inputs // scale.shape[1]
    editor.remove_constant(name)
    packed = editor.add_constant(f"{name}.packed", pack(levels, (outputs, scale.shape[1], block // 2)))
    scales = editor.add_constant(f"{name}.scale", np.ascontiguousarray(scale))
    biased = node.op_type == "Gemm" and len(node.input) > 2
    product = editor.fresh(f"{stem}.product") if biased else stem
    editor.remove([node])
    editor.nodes += [
        make_node("MatMulNBits", [node.input[0], packed, scales], [product], domain=DOMAIN, K=inputs, N=outputs, bits=4,
                  block_size=block, accuracy_level=INTEGERS),
        *([make_node("Add", [product, node.input[2]], [stem])] if biased else []),
    ]  # fmt: skip
    return [Binding(packed, name, "packed", moved), Binding(scales, name, "scale", moved)]
