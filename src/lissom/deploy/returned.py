"""The user's own ONNX file as the float graph that integers are put into; it keeps its names, and is raised where it must be."""

from __future__ import annotations

import numpy as np
import onnx.version_converter
from onnx import ModelProto, NodeProto

from lissom import edits
from lissom.codec.tensors import Quantized
from lissom.deploy.clean import clean
from lissom.deploy.editing import Editor, attributes
from lissom.deploy.finish import Plain
from lissom.deploy.write_back import write_back
from lissom.errors import DeployFailed
from lissom.network import Network
from lissom.networks.onnx import original_name

__all__ = ["fold_normalisations", "returned"]

WITH_AXIS = 13
"""The operator set from which integers may have a scale for each channel."""
LAST_WITH_INPUTS = 3
TIDY = ("constants_from_nodes", "no_operations", "padded_convolutions", "dead_nodes")
"""The passes without which integer kernels would not be found; the rest of the file stays as it is."""


def returned(network: Network) -> Plain:
    """The file of a network that was read from ONNX, with its values now: batch norms folded, nodes that do nothing gone.

    Raises:
        DeployFailed: the file is of an operator set before 13 and cannot be raised to it.
    """
    model = write_back(network, levels=False).model
    notes = list(network.notes)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < WITH_AXIS:
        model = _raised(model, opset)
        notes.append(f"the file was raised from operator set {opset} to {WITH_AXIS}, the first with a scale for each channel")
    _without_weights_as_inputs(model)
    held = {original_name(name): tensor for name, tensor in edits.tensors(network.module).items()}
    quantized = {name: tensor for name, tensor in held.items() if isinstance(tensor, Quantized)}
    editor = Editor(model, parameters=held)
    clean(editor, TIDY)
    fold_normalisations(editor, set(quantized))
    return Plain(network, editor, quantized, tuple(notes), keep_names=True)


def fold_normalisations(editor: Editor, keep: set[str]) -> None:
    """Make each BatchNormalization that alone reads a convolution part of its weights, in place.

    The new weights get names of their own: they are other tensors than the user's.

    Args:
        editor: The graph.
        keep: Weights that must keep their values, because they take them from a grid.
    """
    producers, users = editor.producers(), editor.users()
    for norm in [node for node in editor.nodes if node.op_type == "BatchNormalization"]:
        layer = producers.get(norm.input[0])
        if layer is None or layer.op_type not in ("Conv", "ConvTranspose") or len(norm.output) > 1:
            continue
        own = [*layer.input[1:], *norm.input[1:]]
        alone = len(users[layer.output[0]]) == 1 and layer.output[0] not in editor.outputs
        if not alone or layer.input[1] in keep or any(name not in editor.constants for name in own):
            continue
        if any(len(users[name]) > 1 for name in layer.input[1:]):
            continue  # a weight that another node reads, too
        _fold(editor, layer, norm)


def _fold(editor: Editor, layer: NodeProto, norm: NodeProto) -> None:
    gamma, beta, mean, variance = (editor.constants[name].astype(np.float64) for name in norm.input[1:5])
    weight = editor.constants[layer.input[1]]
    factor = gamma / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
    bias = editor.constants[layer.input[2]].astype(np.float64) if len(layer.input) > 2 else np.zeros_like(mean)
    if layer.op_type == "Conv":
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # [in, out / groups, ...]: the inputs of a group stand together
        groups = attributes(layer).get("group", 1)
        parts = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (parts * factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    names = [layer.input[1], layer.input[2] if len(layer.input) > 2 else norm.input[2]]
    values = [scaled.astype(weight.dtype), ((bias - mean) * factor + beta).astype(weight.dtype)]
    del layer.input[1:]
    for name, value in zip(names, values, strict=True):
        made = editor.add_constant(f"{name}.folded", value)
        editor.parameters.add(made)
        layer.input.append(made)
    editor.remove([norm])
    layer.output[0] = norm.output[0]


def _raised(model: ModelProto, opset: int) -> ModelProto:
    try:
        converted = onnx.version_converter.convert_version(model, WITH_AXIS)
    except (RuntimeError, ValueError) as error:
        raise DeployFailed(
            f"integers need operator set {WITH_AXIS}, and the file of set {opset} cannot be raised to it "
            f"({str(error).splitlines()[0][:200]}): export the network with a newer set, or use precision 'float32'"
        ) from error
    raised = ModelProto()
    raised.CopyFrom(model)  # the converter rewrites more than nodes and weights
    raised.ir_version = max(model.ir_version, LAST_WITH_INPUTS + 1)
    for entry in raised.opset_import:
        entry.version = WITH_AXIS if entry.domain in ("", "ai.onnx") else entry.version
    for field in ("node", "initializer"):
        raised.graph.ClearField(field)
        getattr(raised.graph, field).extend(getattr(converted.graph, field))
    return raised


def _without_weights_as_inputs(model: ModelProto) -> None:
    """Old files list each weight among the inputs, too; a runtime would take it for something that may still change."""
    held = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in held]
    if len(kept) < len(model.graph.input):
        copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
        model.graph.ClearField("input")
        model.graph.input.extend(copies)
        model.ir_version = max(model.ir_version, LAST_WITH_INPUTS + 1)
