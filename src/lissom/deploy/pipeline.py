"""deploy(): from a network to the file that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lissom import edits
from lissom.codec.tensors import Quantized
from lissom.deploy import targets
from lissom.deploy.clean import clean
from lissom.deploy.deployed import Deployed
from lissom.deploy.dynamic import deploy_dynamic, deploy_half
from lissom.deploy.editing import Editor
from lissom.deploy.export import export_module
from lissom.deploy.finish import Plain, finish
from lissom.deploy.fold import Folding, fold_batch_norm
from lissom.deploy.quantized_graph import close_graph, is_quantized_graph
from lissom.deploy.returned import returned
from lissom.deploy.settings import Deploy
from lissom.deploy.static import deploy_static
from lissom.deploy.weights import place_levels
from lissom.deploy.write_back import returns, write_back
from lissom.errors import UsageError
from lissom.network import Network

__all__ = ["Inputs", "deploy", "plain"]

Inputs = Iterable[Sequence[Tensor | np.ndarray[Any, Any]]]
"""Batches of inputs, each a tuple with one tensor or array per input of the network."""


def deploy(network: Network, settings: Deploy | None = None, calibration: Inputs | None = None) -> Deployed:
    """Turn a network into a file that runs: fold, export, clean, and quantize as ``settings`` say.

    A network that was read from an ONNX file goes back into that file (:func:`lissom.deploy.write_back.write_back`).

    Args:
        network: Left as it is; its edits decide which weights are stored as levels. A quantized graph
            (:mod:`lissom.deploy.quantized_graph`) is written as it stands, whatever the precision.
        settings: The target and the precision; by default float32.
        calibration: Batches of real inputs (a tuple each, no labels), needed for int8; a list, or anything that can be
            iterated more than once.

    Raises:
        UsageError: int8 without calibration data, or settings that the target does not know.
        DeployFailed: the network cannot be exported.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> deployed = deploy(Network(nn.Linear(3, 2), (torch.zeros(2, 3),)))
        >>> [node.op_type for node in deployed.model.graph.node]
        ['Gemm']
    """
    chosen = settings if settings is not None else Deploy()
    targets.row(chosen.target)
    if chosen.precision == "int8" and calibration is None:
        raise UsageError(
            "precision 'int8' takes the ranges of activations from data: give calibration inputs, or use precision 'float32'"
        )
    batches = None if calibration is None else calibration if not isinstance(calibration, Iterator) else list(calibration)
    if is_quantized_graph(network):
        return close_graph(network)
    if chosen.precision == "float32" and returns(network):
        return write_back(network)
    return PRECISIONS[chosen.precision](plain(network, chosen), chosen, batches)


def plain(network: Network, settings: Deploy) -> Plain:
    """Fold batch-norm, export and clean: the float graph, with the levels of the weights that have a grid."""
    if returns(network):
        return returned(network)
    quantized = {name: stored for name, stored in edits.tensors(network.module).items() if isinstance(stored, Quantized)}
    copied = edits.copy(network)
    edits.bake(copied.module)
    folded = fold_batch_norm(copied.module, copied.example_inputs, keep=set(quantized))
    model = export_module(copied, opset=settings.opset or targets.row(settings.target).opset)
    held = {name for name, _ in copied.module.state_dict(keep_vars=True).items()}
    editor = Editor(model, parameters=held)
    clean(editor)
    _name_folded(editor, folded)
    return Plain(network, editor, quantized, network.notes)


def _name_folded(editor: Editor, folded: list[Folding]) -> None:
    """A folded weight is another tensor than the user's, and must not go by its name."""
    for pair in folded:
        for attribute in pair.tensors:
            old = f"{pair.layer}.{attribute}".lstrip(".")
            if old in editor.constants:
                editor.rename_constant(old, f"{pair.layer}.folded.{attribute}".lstrip("."))


def _float32(source: Plain, _settings: Deploy, _calibration: Inputs | None) -> Deployed:
    bindings = place_levels(source.editor, source.quantized)
    return finish(source.editor, bindings, precision="float32", notes=source.notes)


PRECISIONS: dict[str, Callable[[Plain, Deploy, Inputs | None], Deployed]] = {
    "float32": _float32,
    "float16": lambda source, settings, _: deploy_half(source, settings),
    "int8": deploy_static,
    "int8-dynamic": lambda source, settings, _: deploy_dynamic(source, settings),
}
