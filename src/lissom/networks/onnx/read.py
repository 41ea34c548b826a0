"""Reading an ONNX file into a Network: open, take apart, build, try on example inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx.inliner
import torch
from onnx import ModelProto
from torch import Tensor

from lissom.errors import ModelRefused, UnknownOperators, UsageError
from lissom.network import Network, Source
from lissom.networks.onnx.file import domain_of, open_model, versions
from lissom.networks.onnx.inputs import NOT_RUN, Input, batch_is_fixed, candidates, declared_inputs, dynamic_axes
from lissom.networks.onnx.module import OnnxModule, make_module
from lissom.networks.onnx.operators.dtypes import DTYPES
from lissom.networks.onnx.plan import Plan, make_plan
from lissom.networks.onnx.table import find

__all__ = ["read_module", "read_onnx"]


def read_onnx(
    model: str | os.PathLike[str] | ModelProto,
    example_inputs: Sequence[Tensor] | None = None,
    *,
    settings: Mapping[str, float] | None = None,
    weights_only: bool = False,
    otherwise: Callable[[tuple[str, ...]], Sequence[Tensor]] | None = None,
) -> Network:
    """Read an ONNX model as a network whose parameters are the file's floating initialisers.

    Args:
        model: A path, or a model in memory (which then must hold all its data).
        example_inputs: One tensor per input, the batch first; by default made from the declared shapes.
        settings: Inputs that are one number and no data (a sampling rate), and their value; the network then takes the
            others, and the file keeps all of them.
        weights_only: Read the weights and leave the graph: the network cannot run, and what needs no data (quantizing
            weights, sharing, packing) still works. For files with operators that lissom has no function for.
        otherwise: Gives example inputs from the inputs' names, where the network does not run on what its declared
            shapes suggest.

    Returns:
        A network with the file's names of inputs and outputs, its open lengths as dynamic axes, and the parsed model
        as ``source.original`` for the way back.

    Raises:
        UnknownOperators: it has operators without a function; the error lists all of them.
        ModelRefused: the file is damaged or asks for what is not safe, or it does not run on its own declared shapes.

    Example:
        >>> from onnx import helper, TensorProto
        >>> weight = helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], [1.0] * 6)
        >>> graph = helper.make_graph(
        ...     [helper.make_node("MatMul", ["x", "weight"], ["y"])], "double",
        ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])], [weight],
        ... )
        >>> network = read_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
        >>> [name for name, _ in network.parameters()], network.outputs(torch.ones(1, 3))[0].tolist()
        (['weight'], [[3.0, 3.0]])
    """
    proto, folder = open_model(model)
    location = "" if isinstance(model, ModelProto) else str(Path(model))
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)  # an edit must find each weight in the graph itself
    plan = _planned(proto, folder, _settings(proto, settings or {}))
    if plan.unsupported and not weights_only:
        raise UnknownOperators(_listing(plan, location))
    module = make_module(plan, runnable=not weights_only)
    inputs = declared_inputs(proto.graph, plan.inputs)
    if example_inputs is None:
        example_inputs = next(candidates(inputs)) if weights_only else _runs_on(module, inputs, otherwise)
    fixed = not weights_only and batch_is_fixed(module, inputs, tuple(example_inputs))
    if fixed and len({len(tensor) for tensor in example_inputs}) == 1:
        module.batch = len(example_inputs[0])
    network = Network(
        module,
        tuple(example_inputs),
        input_names=tuple(plan.inputs),
        output_names=tuple(output.name for output in proto.graph.output),
        dynamic_axes=dynamic_axes(inputs),
        source=Source("onnx", location, proto),
        fixed_batch=fixed,
    )
    return network.noting(_weights_only_note(plan)) if weights_only else network


def read_module(model: str | os.PathLike[str] | ModelProto) -> OnnxModule:
    """Only the module of an ONNX model, without example inputs; for graphs whose inputs are not batches.

    Raises:
        ModelRefused: as :func:`read_onnx`.
    """
    proto, folder = open_model(model)
    plan = _planned(onnx.inliner.inline_local_functions(proto) if proto.functions else proto, folder)
    if plan.unsupported:
        raise ModelRefused(_listing(plan, ""))
    return make_module(plan)


def _planned(proto: ModelProto, folder: Path | None, settings: Mapping[str, Tensor] | None = None) -> Plan:
    found = versions(proto)
    return make_plan(_with_known_operators(proto, found).graph, found, folder, settings)


def _settings(proto: ModelProto, settings: Mapping[str, float]) -> dict[str, Tensor]:
    declared = {value.name: value.type.tensor_type for value in proto.graph.input}
    unknown = settings.keys() - declared.keys()
    if unknown:
        raise UsageError(f"no input is called {', '.join(sorted(unknown))}; the file's inputs are {', '.join(declared)}")
    shapes = {name: [dim.dim_value for dim in declared[name].shape.dim] for name in settings}
    return {name: torch.full(shapes[name], number, dtype=DTYPES[declared[name].elem_type]) for name, number in settings.items()}


def _with_known_operators(proto: ModelProto, found: dict[str, int]) -> ModelProto:
    """The model with operators that ONNX defines by others replaced by their nodes."""
    for _ in range(_DEEPEST):  # an operator may be defined by one that is itself defined by others
        composed = {(n.domain, n.op_type) for n in proto.graph.node if _is_composed(domain_of(n.domain), n.op_type, found)}
        if not composed:
            break
        proto = onnx.inliner.inline_selected_functions(proto, sorted(composed), inline_schema_functions=True)
    return proto


_DEEPEST = 4


def _is_composed(domain: str, name: str, found: dict[str, int]) -> bool:
    version = found.get(domain, 0)
    if find(domain, name, version) is not None or not onnx.defs.has(name, domain):
        return False
    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]


def _listing(plan: Plan, location: str) -> str:
    counted = ", ".join(f"{name} ({count})" for name, count in sorted(plan.unsupported.items()))
    return (
        f"{location or 'the model'} uses operators that lissom cannot run: {counted}. Its weights can still be made smaller "
        "without running it: lissom pack --quality 40, or from Python read_onnx(FILE, weights_only=True), steps that need no "
        "data (QuantizeWeights, ShareWeights), deploy(network).save(FILE); lissom inspect shows the file"
    )


def _weights_only_note(plan: Plan) -> str:
    counted = ", ".join(sorted(plan.unsupported)) or "none"
    return f"only the weights were read; operators without a function: {counted}"


def _runs_on(
    module: OnnxModule, declared: tuple[Input, ...], otherwise: Callable[[tuple[str, ...]], Sequence[Tensor]] | None
) -> tuple[Tensor, ...]:
    """The first example inputs that the network runs on."""
    first: Exception | None = None
    for inputs in candidates(declared):
        try:
            with torch.no_grad():
                module(*inputs)
        except NOT_RUN as error:
            first = first or error
        else:
            return inputs
    if otherwise is not None:
        return tuple(otherwise(tuple(entry.name for entry in declared)))
    shapes = ", ".join(f"{entry.name} {list(entry.shape)}" for entry in declared)
    reason = str(first).splitlines()[0] if first else "it has no inputs"
    raise ModelRefused(
        f"the network does not run on its declared inputs {shapes}: {reason}; give the shape of a sample for each input "
        "(--input 3x224x224), or data"
    )
