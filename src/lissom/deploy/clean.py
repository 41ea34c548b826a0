"""Clean-up of an exported graph: small passes, each with a name, run until none of them changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, helper, numpy_helper

from lissom.deploy.editing import Editor, attributes, make_node, reads

__all__ = ["PASSES", "clean"]

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
WITH_SUBGRAPHS = {"If", "Loop", "Scan", "SequenceMap"}
NOT_FOLDED = RANDOM | WITH_SUBGRAPHS | {"QuantizeLinear", "DequantizeLinear", "SplitToSequence", "SequenceAt"}
LARGEST_FOLDED = 4096
"""Constants of more elements are left for the runtime to fold."""

Pass = Callable[[Editor], bool]
PASSES: dict[str, Pass] = {}


def clean(editor: Editor, names: Iterable[str] | None = None) -> Editor:
    """Run every pass, or those of these names, until the graph stays as it is."""
    chosen = [PASSES[name] for name in (PASSES if names is None else names)]
    changed = True
    while changed:
        changed = False
        for run in chosen:
            changed = run(editor) or changed
    return editor


def _pass(run: Pass) -> Pass:
    PASSES[run.__name__] = run
    return run


@_pass
def constants_from_nodes(editor: Editor) -> bool:
    """Constant nodes become constants of the graph."""
    found = [node for node in editor.nodes if node.op_type == "Constant" and node.output[0] not in editor.outputs]
    for node in found:
        editor.constants[node.output[0]] = _constant_value(node)
    editor.remove(found)
    return bool(found)


@_pass
def static_shapes(editor: Editor) -> bool:
    """A Shape whose lengths are all known becomes a constant; a CastLike whose type is known becomes a Cast."""
    changed = []
    for node in editor.nodes:
        if node.op_type == "Shape" and (lengths := _known_lengths(editor, node)) is not None:
            editor.constants[node.output[0]] = np.array(lengths, np.int64)
            changed.append(node)
        elif node.op_type == "CastLike" and (kind := editor.element_type(node.input[1])):
            node.CopyFrom(make_node("Cast", node.input[:1], node.output, to=kind))
            editor.types.setdefault(node.output[0], (kind, editor.shape(node.input[0])))
    editor.remove([node for node in changed if node.output[0] not in editor.outputs])
    return bool(changed)


@_pass
def constant_folding(editor: Editor) -> bool:
    """Nodes that compute on constants alone, none of them trained, are run once and become constants."""
    fixed = {name for name in editor.constants if name not in editor.parameters}
    folded: list[NodeProto] = []
    editor.sort()
    for node in editor.nodes:
        if node.op_type in NOT_FOLDED or node.domain or any(name in editor.outputs for name in node.output):
            continue
        if all(name in fixed for name in reads(node)):
            folded.append(node)
            fixed.update(node.output)
    if not folded:
        return False
    results = _run(editor, folded)
    small = {id(node) for node in folded if all(results[name].size <= LARGEST_FOLDED for name in node.output if name)}
    for node in folded:
        if id(node) in small:
            editor.constants.update({name: results[name] for name in node.output if name})
    editor.nodes = [node for node in editor.nodes if id(node) not in small]
    return bool(small)


@_pass
def sequences_to_splits(editor: Editor) -> bool:
    """SplitToSequence read by SequenceAt at constant positions becomes one Split."""
    users = editor.users()
    for node in editor.nodes:
        readers = users.get(node.output[0], [])
        if node.op_type != "SplitToSequence" or node.output[0] in editor.outputs:
            continue
        lengths = _split_lengths(editor, node)
        if lengths is None or any(
            reader.op_type != "SequenceAt" or reader.input[1] not in editor.constants for reader in readers
        ):
            continue
        outputs = [editor.fresh(f"{node.output[0]}_{index}") for index in range(len(lengths))]
        for reader in readers:
            _redirect(editor, reader, outputs[int(editor.constants[reader.input[1]].item())])
        sizes = editor.add_constant("split", np.array(lengths, np.int64))
        node.CopyFrom(make_node("Split", [node.input[0], sizes], outputs, axis=attributes(node).get("axis", 0)))
        return True
    return False


def _split_lengths(editor: Editor, node: NodeProto) -> list[int] | None:
    """The lengths of the pieces, where they are known."""
    fields = attributes(node)
    if len(node.input) < 2 or node.input[1] not in editor.constants or not fields.get("keepdims", 1):
        return None
    wanted = editor.constants[node.input[1]]
    if wanted.ndim == 1:
        return [int(length) for length in wanted]
    shape = editor.shape(node.input[0])
    whole = None if shape is None else shape[fields.get("axis", 0)]
    if not isinstance(whole, int):
        return None
    each = int(wanted)
    return [min(each, whole - start) for start in range(0, whole, each)]


@_pass
def inferred_reshapes(editor: Editor) -> bool:
    """A Reshape to a shape with a single unknown length has it inferred, so that nothing needs to compute it."""
    producers = editor.producers()
    changed = False
    for node in editor.nodes:
        if node.op_type != "Reshape" or node.input[1] not in producers or producers[node.input[1]].op_type != "Concat":
            continue
        parts = [editor.constants.get(name) for name in producers[node.input[1]].input]
        known = [part for part in parts if part is not None]
        if len(known) != len(parts) - 1 or any(int(length) <= 0 for part in known for length in part.flat):
            continue
        unknown = producers[node.input[1]].input[next(i for i, part in enumerate(parts) if part is None)]
        if not _one_element(editor, unknown, producers):
            continue
        shape = np.concatenate([np.array([-1], np.int64) if part is None else part.astype(np.int64).ravel() for part in parts])
        node.CopyFrom(make_node("Reshape", [node.input[0], editor.add_constant("shape", shape)], node.output))
        changed = True
    return changed


@_pass
def no_operations(editor: Editor) -> bool:
    """Nodes that hand on what they were given: Identity, a Cast to the same type, a Slice of everything …"""
    found = [node for node in editor.nodes if node.op_type in NO_OPERATION and NO_OPERATION[node.op_type](editor, node)]
    for node in found:
        if node.output[0] not in editor.outputs:
            _redirect(editor, node, node.input[0])
        elif not _renamed_producer(editor, node):
            continue
        editor.remove([node])
        return True
    return False


@_pass
def transposed_weights(editor: Editor) -> bool:
    """A trained constant that is only ever read through one Transpose is stored in that order."""
    users = editor.users()
    for name in sorted(editor.parameters & set(editor.constants)):
        readers = users.get(name, [])
        orders = {tuple(attributes(reader).get("perm", ())) for reader in readers if reader.op_type == "Transpose"}
        if len(orders) != 1 or any(reader.op_type != "Transpose" for reader in readers) or name in editor.outputs:
            continue
        if any(reader.output[0] in editor.outputs for reader in readers):
            continue
        order = next(iter(orders)) or tuple(reversed(range(editor.constants[name].ndim)))
        editor.transpose(name, order)
        for reader in readers:
            _redirect(editor, reader, name)
        editor.remove(readers)
        return True
    return False


@_pass
def padded_convolutions(editor: Editor) -> bool:
    """A Pad with zeros on the spatial axes, read by one Conv, becomes that convolution's own padding."""
    users = editor.users()
    producers = editor.producers()
    for conv in editor.nodes:
        pad = producers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or len(users[pad.output[0]]) > 1 or pad.output[0] in editor.outputs:
            continue
        amounts = _zero_padding(editor, pad)
        fields = attributes(conv)
        if amounts is None or fields.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        own = fields.get("pads", [0] * len(amounts))
        for attribute in [attribute for attribute in conv.attribute if attribute.name == "pads"]:
            conv.attribute.remove(attribute)
        conv.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(amounts, own, strict=True)]))
        conv.input[0] = pad.input[0]
        editor.remove([pad])
        return True
    return False


def _zero_padding(editor: Editor, pad: NodeProto) -> list[int] | None:
    """The padding of the spatial axes, all the first ends and then all the last; None where it is anything else."""
    if attributes(pad).get("mode", b"constant") != b"constant" or len(pad.input) > 3 or pad.input[1] not in editor.constants:
        return None
    if len(pad.input) == 3 and pad.input[2] and (pad.input[2] not in editor.constants or editor.constants[pad.input[2]].any()):
        return None
    amounts = [int(amount) for amount in editor.constants[pad.input[1]]]
    first, last = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
    if any(first[:2]) or any(last[:2]) or min(amounts) < 0:
        return None
    return first[2:] + last[2:]


@_pass
def global_pools(editor: Editor) -> bool:
    """A mean over all spatial axes is a GlobalAveragePool, which has an integer kernel."""
    changed = False
    for node in editor.nodes:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in editor.constants:
            continue
        shape = editor.shape(node.input[0])
        if shape is None or len(shape) < 3 or not attributes(node).get("keepdims", 1):
            continue
        axes = sorted(int(axis) % len(shape) for axis in editor.constants[node.input[1]])
        if axes == list(range(2, len(shape))):
            node.CopyFrom(make_node("GlobalAveragePool", node.input[:1], node.output))
            changed = True
    return changed


@_pass
def zero_biases(editor: Editor) -> bool:
    """A convolution or Gemm whose bias is zero everywhere, and not trained, has none."""
    changed = False
    for node in editor.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) == 3:
            bias = editor.constants.get(node.input[2])
            if bias is not None and node.input[2] not in editor.parameters and not bias.any():
                del node.input[2]
                changed = True
    return changed


@_pass
def common_subexpressions(editor: Editor) -> bool:
    """Nodes of the same operator, inputs and attributes are one node; equal small constants are one constant."""
    seen: dict[Any, str] = {}
    changed = False
    for name, value in sorted(editor.constants.items()):
        if name in editor.parameters or value.size > LARGEST_FOLDED or name in editor.outputs:
            continue
        first = seen.setdefault((value.dtype.str, value.shape, value.tobytes()), name)
        if first != name:
            editor.replace_uses(name, first)
            del editor.constants[name]
            changed = True
    nodes: dict[Any, NodeProto] = {}
    for node in list(editor.nodes):
        if node.op_type in RANDOM | WITH_SUBGRAPHS or any(name in editor.outputs for name in node.output):
            continue
        fields = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        first_node = nodes.setdefault((node.op_type, node.domain, tuple(node.input), len(node.output), tuple(fields)), node)
        if first_node is not node:
            for old, new in zip(node.output, first_node.output, strict=True):
                editor.replace_uses(old, new)
            editor.remove([node])
            changed = True
    return changed


@_pass
def dead_nodes(editor: Editor) -> bool:
    """Nodes and constants that no output depends on."""
    producers = editor.producers()
    live: set[str] = set()
    waiting = list(editor.outputs)
    while waiting:
        name = waiting.pop()
        if name in live:
            continue
        live.add(name)
        if name in producers:
            waiting.extend(reads(producers[name]))
    dead = [node for node in editor.nodes if not any(name in live for name in node.output)]
    unused = [name for name in editor.constants if name not in live]
    editor.remove(dead)
    for name in unused:
        del editor.constants[name]
    return bool(dead or unused)


def _redirect(editor: Editor, node: NodeProto, source: str) -> None:
    """Let the readers of a node read ``source``; the node is left without readers."""
    editor.replace_uses(node.output[0], source)


def _renamed_producer(editor: Editor, node: NodeProto) -> bool:
    """Let the node before compute the graph output under its name; False where it cannot."""
    before = editor.producers().get(node.input[0])
    if before is None or node.input[0] in editor.outputs:
        return False
    old, new = node.input[0], node.output[0]
    for position, name in enumerate(before.output):
        if name == old:
            before.output[position] = new
    editor.replace_uses(old, new, among=[other for other in editor.nodes if other is not node])
    return True


def _constant_value(node: NodeProto) -> np.ndarray[Any, Any]:
    fields = attributes(node)
    if "value" in fields:
        return numpy_helper.to_array(fields["value"])
    kind, value = next(iter(fields.items()))
    return np.array(value, np.float32 if kind.startswith("value_float") else np.int64)


def _known_lengths(editor: Editor, node: NodeProto) -> list[int] | None:
    shape = editor.shape(node.input[0])
    if shape is None:
        return None
    fields = attributes(node)
    wanted = shape[slice(fields.get("start", 0), fields.get("end"))]
    lengths = [length for length in wanted if isinstance(length, int)]
    return lengths if len(lengths) == len(wanted) else None


def _run(editor: Editor, nodes: list[NodeProto]) -> dict[str, np.ndarray[Any, Any]]:
    """What these nodes compute, all in one run of ONNX Runtime."""
    names = [name for node in nodes for name in node.output if name]
    needed = dict.fromkeys(name for node in nodes for name in reads(node) if name in editor.constants)
    graph = helper.make_graph(
        nodes, "constants", [], [helper.make_empty_tensor_value_info(name) for name in names],
        [numpy_helper.from_array(editor.constants[name], name) for name in needed],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=list(editor.model.opset_import), ir_version=editor.model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, {}), strict=True))


def _one_element(editor: Editor, name: str, producers: dict[str, NodeProto]) -> bool:
    """Whether a piece of a shape is exactly one length."""
    shape = editor.shape(name)
    if shape is not None:
        return shape == (1,)
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "Shape":
        fields = attributes(node)
        return "end" in fields and fields["end"] - fields.get("start", 0) == 1
    if node.op_type == "Reshape" and node.input[1] in editor.constants:
        source = editor.shape(node.input[0])
        before = producers.get(node.input[0])
        scalar = source == () or (before is not None and before.op_type == "Squeeze")
        return scalar and editor.constants[node.input[1]].shape == (1,)
    return False


def _same_type(editor: Editor, node: NodeProto) -> bool:
    return bool(editor.element_type(node.input[0]) == attributes(node)["to"])


def _slices_everything(editor: Editor, node: NodeProto) -> bool:
    values = [editor.constants.get(name) for name in node.input[1:]]
    if len(values) < 2 or any(value is None for value in values):
        return False
    starts, ends = values[0], values[1]
    steps = values[3] if len(values) > 3 else np.ones(1, np.int64)
    return not np.any(starts) and bool(np.all(np.asarray(ends) >= 2**31 - 1)) and bool(np.all(steps == 1))


def _identity_order(_editor: Editor, node: NodeProto) -> bool:
    order = attributes(node).get("perm")
    return order is not None and list(order) == sorted(order)


def _one_input(_editor: Editor, node: NodeProto) -> bool:
    return len(node.input) == 1


def _always(_editor: Editor, _node: NodeProto) -> bool:
    return True


NO_OPERATION: dict[str, Callable[[Editor, NodeProto], bool]] = {
    "Identity": _always,
    "Cast": _same_type,
    "Slice": _slices_everything,
    "Transpose": _identity_order,
    "Concat": _one_input,
}
