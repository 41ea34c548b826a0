"""The .pt2 door: an exported program becomes a module that interprets its graph, and whose parameters train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from lissom.errors import ModelRefused
from lissom.network import Network, Source
from lissom.networks.pt2_archive import load_exported

__all__ = ["ExportedModule", "read_pt2"]

FROZEN = (
    "read from an exported graph: it was captured in eval mode, so normalisation keeps its statistics and there is no dropout "
    "while it trains"
)
DTYPE_AND_LENGTH_CHECKS = ("_assert_scalar", "_assert_tensor_metadata", "_assert_async", "sym_constrain_range")
TRAINING_FLAGS = {"batch_norm": "training", "dropout": "train", "alpha_dropout": "train", "feature_dropout": "train",
                  "_native_batch_norm_legit": "training", "native_batch_norm": "training"}  # fmt: skip


class _Program:
    """What never changes of an exported program; copies of a module share it."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        self.graph = exported.graph_module
        self.signature = exported.graph_signature
        self.in_spec = exported.call_spec.in_spec
        self.out_spec = exported.call_spec.out_spec
        for node in list(self.graph.graph.nodes):
            # Exported checks of lengths and dtypes hold for the example alone, and would only be captured again.
            if node.op == "call_function" and getattr(node.target, "__name__", "").startswith(DTYPE_AND_LENGTH_CHECKS):
                self.graph.graph.erase_node(node)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Program:
        return self


class ExportedModule(nn.Module):
    """Runs the ATen graph of an exported program, one operator after the other.

    Parameters and buffers have the names that they had in the module which was exported, so any edit that names them
    works; the graph reads them by name at every call, so it sees what parametrizations make of them.

    Args:
        exported: The program, as ``torch.export.export`` gave it in eval mode.
    """

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = _Program(exported)
        taken: dict[object, nn.Parameter] = {}
        for spec in self.program.signature.input_specs:
            if spec.kind not in _STATE or spec.target is None:
                continue
            value = _stored(exported, spec.target)
            if spec.kind is InputKind.PARAMETER:
                # Tied weights are one piece of the file's storage, and stay one parameter here.
                place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
                parameter = taken.setdefault(place if value.numel() else spec.target, _parameter(value))
                _put(self, spec.target).register_parameter(spec.target.rpartition(".")[2], parameter)
            else:
                persistent = spec.kind is InputKind.BUFFER and bool(spec.persistent)
                owner, name = _put(self, spec.target), spec.target.rpartition(".")[2]
                if name not in owner._buffers:  # noqa: SLF001 - one buffer may be lifted under two inputs
                    owner.register_buffer(name, value.detach().clone(), persistent=persistent)

    def forward(self, *inputs: Tensor) -> Any:
        """Run the graph on the tensors, in the order of the program's inputs."""
        given = iter(inputs)
        values = [self._value(spec, given) for spec in self.program.signature.input_specs]
        results = torch.fx.Interpreter(self.program.graph, garbage_collect_values=not torch.is_grad_enabled()).run(
            *values, enable_io_processing=False
        )
        answers = []
        for spec, result in zip(self.program.signature.output_specs, results, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT:
                answers.append(result)
            elif spec.kind is OutputKind.BUFFER_MUTATION and spec.target is not None:
                self.get_buffer(spec.target).copy_(result)
        return pytree.tree_unflatten(answers, self.program.out_spec)

    def _value(self, spec: Any, given: Any) -> Any:
        if spec.kind in _STATE:
            owner = self.get_submodule(spec.target.rpartition(".")[0])
            return getattr(owner, spec.target.rpartition(".")[2])
        return spec.arg.value if isinstance(spec.arg, ConstantArgument) else next(given)


_STATE = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def read_pt2(path: str | Path) -> Network:
    """The network of a ``.pt2`` file that ``torch.export.save`` wrote. Nothing in the file is run as code.

    Args:
        path: The file.

    Raises:
        ModelRefused: damaged, hostile, exported in training mode, or with a batch that its graph cannot change.
    """
    file = Path(path)
    exported = load_exported(file)
    _refuse_training(exported, file)
    module = ExportedModule(exported)
    names, axes, fixed = _inputs(exported)
    example = _example(exported, names, file)
    notes: tuple[str, ...] = (FROZEN,)
    if fixed:
        _refuse_fixed_batch(module, example, file)
        notes = (
            *notes,
            "exported with a fixed batch; its graph was tried with a batch of twice the size, and gives the same answers",
        )
    source = Source("pt2", str(file), exported)
    return Network(module, example, input_names=names, dynamic_axes=axes, source=source, notes=notes)


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone(), requires_grad=value.is_floating_point())


def _stored(exported: torch.export.ExportedProgram, target: str) -> Tensor:
    found: Any = exported.state_dict[target] if target in exported.state_dict else exported.constants[target]
    return found  # type: ignore[no-any-return]


def _put(root: nn.Module, target: str) -> nn.Module:
    """The submodule that owns ``target``, made where there is none."""
    owner = root
    for part in target.split(".")[:-1]:
        if part not in owner._modules:  # noqa: SLF001 - getattr would find attributes that are not modules
            owner.add_module(part, nn.Module())
        owner = owner.get_submodule(part)
    return owner


def _inputs(exported: torch.export.ExportedProgram) -> tuple[tuple[str, ...], dict[str, dict[int, str]], bool]:
    """The tensor inputs' names, which of their axes differ from call to call, and whether the batch does not."""
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    names, axes, fixed = [], {}, False
    for spec in exported.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT or isinstance(spec.arg, ConstantArgument):
            continue
        lengths = placeholders[spec.arg.name].meta["val"].shape
        names.append(spec.arg.name)
        fixed = fixed or isinstance(lengths[0], int)
        dynamic = {axis: str(length) for axis, length in enumerate(lengths) if axis and not isinstance(length, int)}
        if dynamic:
            axes[spec.arg.name] = dynamic
    return tuple(names), axes, fixed


def _example(exported: torch.export.ExportedProgram, names: tuple[str, ...], file: Path) -> tuple[Tensor, ...]:
    inputs = tuple(leaf for leaf in pytree.tree_leaves(exported.example_inputs) if isinstance(leaf, Tensor))
    if len(inputs) != len(names):
        raise ModelRefused(
            f"{file} carries {len(inputs)} example inputs for {len(names)} inputs: export it again with example inputs"
        )
    return inputs


def _refuse_training(exported: torch.export.ExportedProgram, file: Path) -> None:
    for node in exported.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        flag = TRAINING_FLAGS.get(schema.name.partition("::")[2]) if schema is not None else None
        arguments = [argument.name for argument in schema.arguments] if schema is not None else []
        if flag in arguments:
            position = arguments.index(flag)
            if (node.args[position] if position < len(node.args) else node.kwargs.get(flag)) is True:
                raise ModelRefused(
                    f"{file} was exported in training mode ({node.name}): call model.eval() before torch.export.export"
                )


def _refuse_fixed_batch(module: ExportedModule, example: tuple[Tensor, ...], file: Path) -> None:
    """A graph exported with a fixed batch may still compute any; a length that was written into it shows at once."""
    module.eval()
    with torch.no_grad():
        once = pytree.tree_leaves(module(*example))
        try:
            twice = pytree.tree_leaves(module(*(torch.cat([tensor, tensor]) for tensor in example)))
            same = all(
                torch.allclose(torch.cat([a, a]).double(), b.double(), rtol=1e-4, atol=1e-5)
                for a, b in zip(once, twice, strict=True)
            )
        except (RuntimeError, IndexError):
            same = False
    if not same:
        raise ModelRefused(
            f"{file} was exported for a batch of {example[0].shape[0]} and nothing else: export it again with a batch that "
            "may differ, dynamic_shapes={'x': {0: torch.export.Dim('batch')}}"
        )
