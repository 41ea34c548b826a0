"""int8-dynamic: weights of matrix products in int8, activations quantized at run time by their own range; no data needed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto

from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy import integers, targets
from lissom.deploy.block_products import place_block_products
from lissom.deploy.deployed import Binding, Deployed
from lissom.deploy.editing import Editor, attributes, make_node
from lissom.deploy.finish import Plain, finish
from lissom.deploy.integer_weights import weight_levels
from lissom.deploy.operators import weight_axis
from lissom.deploy.settings import Deploy
from lissom.deploy.weights import place_levels
from lissom.errors import UsageError

__all__ = ["deploy_dynamic", "deploy_half"]


def deploy_dynamic(source: Plain, settings: Deploy) -> Deployed:
    """Compute matrix products in integers whose activations are quantized as they come (``precision="int8-dynamic"``).

    Weights that are on 4-bit grids in blocks take the runtime's kernel for those, where the target has it. Convolutions stay in
    float: the runtime has no quick kernel for them in this form.

    Raises:
        UsageError: there is no matrix product with a constant weight, or the target does not take this form.
    """
    if targets.row(settings.target).symmetric:
        raise UsageError(f"target {settings.target!r} has no int8-dynamic: use precision 'int8' with calibration data")
    editor = source.editor
    bindings = integers.embeddings(editor, source.quantized)
    blocks = place_block_products(editor, source.quantized) if targets.row(settings.target).block_products else []
    made = integers.plan(editor, source.quantized, settings.keep_float, weighted_only=True)
    products = [node for node in made.nodes if node.op_type in ("Gemm", "MatMul") and len(editor.users()[node.input[1]]) == 1]
    if not products and not blocks:
        raise UsageError("no matrix product of this network can be computed in integers: use precision 'int8' or 'float32'")
    for node in products:
        bindings += _place(editor, node, source.quantized)
    bindings += blocks
    made.nodes = products
    note = integers.left_in_float(editor, made)
    bindings += place_levels(editor, {name: held for name, held in source.quantized.items() if name in editor.constants})
    notes = (*source.notes, *((note,) if note else ()))
    return finish(editor, bindings, keep_names=source.keep_names, precision="int8-dynamic", notes=notes)


def _place(editor: Editor, node: NodeProto, held: Mapping[str, Quantized]) -> list[Binding]:
    """Put integer nodes in the place of one product; the value that it gives keeps its name."""
    name = node.input[1]
    if node.op_type == "Gemm" and attributes(node).get("transB", 0):
        editor.transpose(name, (1, 0))
        del node.attribute[:]
    axis = weight_axis(node)
    stored = held.get(name) or weight_levels(editor, node, name, 8)
    assert isinstance(stored.decoding, Uniform)
    order = editor.permutations.get(name, (0, 1))
    moved = () if order == (0, 1) else order
    scale = stored.decoding.scale
    editor.remove_constant(name)
    levels = editor.add_constant(f"{name}.levels", stored.levels.transpose(order).astype(np.int8))
    factors = editor.add_constant(f"{name}.scale", scale.ravel() if scale.size > 1 else scale.reshape(()))
    stem = node.output[0]
    quantized, step, zero, total, wide, factor, product = (
        editor.fresh(f"{stem}.{part}") for part in ("levels", "step", "zero", "sum", "wide", "factor", "product")
    )
    biased = node.op_type == "Gemm" and len(node.input) > 2
    editor.nodes += [
        make_node("DynamicQuantizeLinear", [node.input[0]], [quantized, step, zero]),
        make_node("MatMulInteger", [quantized, levels, zero], [total]),
        make_node("Cast", [total], [wide], to=TensorProto.FLOAT),
        make_node("Mul", [step, factors], [factor]),
        make_node("Mul", [wide, factor], [product if biased else stem]),
        *([make_node("Add", [product, node.input[2]], [stem])] if biased else []),
    ]
    editor.remove([node])
    along = order[axis] if scale.size > 1 else None
    return [Binding(levels, name, "levels", moved), Binding(factors, name, "scale", moved, along)]


def deploy_half(source: Plain, _settings: Deploy) -> Deployed:
    """Store weights as float16 and compute in float32 (``precision="float16"``): half the file, the same speed.

    The runtime widens each weight once, when it opens the file. A weight beyond float16's range stays in float32.
    """
    editor = source.editor
    bindings = []
    for binding in place_levels(editor, source.quantized):
        values = editor.constants[binding.initializer]
        largest = float(np.abs(values).max(initial=0)) if values.dtype == np.float32 else np.inf
        if binding.role != "values" or largest > float(np.finfo(np.float16).max):
            bindings.append(binding)
            continue
        half = editor.fresh(f"{binding.initializer}.half")
        editor.constants[half] = values.astype(np.float16)
        editor.remove_constant(binding.initializer)
        editor.nodes.insert(0, make_node("Cast", [half], [binding.initializer], to=TensorProto.FLOAT))
        bindings.append(Binding(half, binding.parameter, "values", binding.permutation))
    return finish(editor, bindings, keep_names=source.keep_names, precision="float16", notes=source.notes)
