"""Float export: a module becomes an ONNX model whose initialisers are its parameters, with nothing of this machine in it."""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx import ModelProto

from lissom.deploy.editing import rename_values
from lissom.errors import DeployFailed
from lissom.network import Network
from lissom.networks.preprocess import METADATA_KEY, preprocess_dict

__all__ = ["export_module", "quiet"]

OPSET = 21
IR_VERSION = 10
LARGEST = 2**31 - 2**20
NEUTRAL = "lissom"
"""What inputs and outputs are called for the exporter, which would not notice that a value within has the same name."""


def export_module(network: Network, *, opset: int = OPSET) -> ModelProto:
    """The network as an ONNX model: dynamic batch, the user's names for inputs and outputs, parameters under theirs.

    It is what ``torch.onnx.export(dynamo=True, optimize=False)`` gives, without stack traces, paths and notes of the
    exporter's. lissom's own passes clean it afterwards: the exporter's optimiser would fold batch-norm into a
    convolution and keep the weight's name for the new tensor.

    Args:
        network: Its module has no edits left (:func:`lissom.edits.bake`).
        opset: The operator set of the file.

    Raises:
        DeployFailed: torch cannot export the module, or it is larger than the 2 GB that one ONNX file can hold.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())
    if size > LARGEST:
        raise DeployFailed(f"the network has {size:,} bytes of weights, and one ONNX file holds at most 2 GB: quantize it first")
    with quiet():
        try:
            program = torch.onnx.export(
                network.module,
                network.example_inputs,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=[f"{NEUTRAL}_input_{number}" for number in range(len(network.input_names))],
                output_names=[f"{NEUTRAL}_output_{number}" for number in range(len(network.output_names))],
                dynamic_shapes=_dynamic_shapes(network),
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:  # noqa: SLF001
            raise DeployFailed(_reason(network, error)) from error
    assert program is not None
    return _bare(program.model_proto, network)


def _dynamic_shapes(network: Network) -> tuple[Any, ...]:
    """For each argument of ``forward``, the axes whose length may differ from call to call."""
    batch = torch.export.Dim("batch", min=1)
    named: dict[str, Any] = {}
    shapes: list[dict[int, Any]] = []
    for name in network.input_names:
        axes: dict[int, Any] = {0: batch}
        for axis, label in network.dynamic_axes.get(name, {}).items():
            axes[int(axis)] = batch if int(axis) == 0 else named.setdefault(label, torch.export.Dim(label, min=1))
        shapes.append(axes)
    for position, parameter in enumerate(inspect.signature(network.module.forward).parameters.values()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return (*shapes[:position], tuple(shapes[position:]))
    return tuple(shapes)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter warns of its own internals and of packages that lissom does not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal.exporter._registration")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(network: Network, error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return (
        f"torch cannot export {type(network.module).__name__}: {line}; make its forward free of data-dependent Python, "
        "or give dynamic_axes for axes whose length it computes with"
    )


def _bare(bare: ModelProto, network: Network) -> ModelProto:
    """The model, changed in place: without what the exporter noted about this run, and with the network's names."""
    bare.ir_version = IR_VERSION
    bare.producer_name, bare.producer_version = "lissom", ""
    del bare.metadata_props[:]
    _strip(bare.graph)
    for function in bare.functions:
        del function.metadata_props[:]
        for node in function.node:
            _strip_node(node)
    if network.preprocess is not None:  # whoever runs the file must know how images become its inputs
        bare.metadata_props.add(key=METADATA_KEY, value=json.dumps(preprocess_dict(network.preprocess)))
    bare.graph.name = "network"
    _name(bare.graph, network)
    return bare


def _name(graph: onnx.GraphProto, network: Network) -> None:
    """Give inputs and outputs the network's names; a value within that has such a name gets another."""
    wanted = (*network.input_names, *network.output_names)
    constants = {tensor.name for tensor in graph.initializer}
    for name in wanted:
        if name in constants or wanted.count(name) > 1:
            raise DeployFailed(
                f"the name {name!r} of an input or output is taken by a parameter or by another of them: "
                "give the network other input_names or output_names"
            )
    if len(graph.input) != len(network.input_names):
        raise DeployFailed(
            f"the exported file takes {len(graph.input)} inputs, and the network takes {list(network.input_names)}"
        )
    taken = {name for node in graph.node for name in node.output} | constants
    names = {name: f"{name}_{_first_free(name, taken)}" for name in wanted if name in taken}
    names |= {value.name: name for value, name in zip([*graph.input, *graph.output], wanted, strict=True)}
    rename_values(graph, names)


def _first_free(name: str, taken: set[str]) -> int:
    return next(number for number in itertools.count(1) if f"{name}_{number}" not in taken)


def _strip(graph: onnx.GraphProto) -> None:
    del graph.metadata_props[:]
    graph.doc_string = ""
    for value in [*graph.input, *graph.output, *graph.value_info]:
        del value.metadata_props[:]
        value.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    del node.metadata_props[:]
    node.doc_string = ""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _strip(attribute.g)
