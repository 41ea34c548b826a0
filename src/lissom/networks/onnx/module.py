"""The module: a plan's weights as parameters under their own names, and a forward that runs the plan with torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ModelRefused
from lissom.network import flatten_outputs, in_pieces
from lissom.networks.onnx.bind import bind
from lissom.networks.onnx.names import torch_names
from lissom.networks.onnx.nested import Branches, Loop, Step, run_steps
from lissom.networks.onnx.plan import Branch, Call, Plan
from lissom.networks.onnx.sizes import SIZED_ATTRIBUTES, SIZED_INPUTS, SizedCall
from lissom.networks.onnx.straight_through import float_levels
from lissom.networks.onnx.table import Kind, find_shape_rule
from lissom.networks.onnx.values import LARGEST_KNOWN, Known, as_known, as_tensor

__all__ = ["OnnxModule", "make_module"]

_CONSTANTS = "%constants"
"""The folder of folded constants: a name that no initialiser can take, since a percent sign is encoded in those."""

_SIZES = "%sizes"
"""The folder of calls that state sizes."""

_MAKES_TENSORS = frozenset({"ConstantOfShape", "Expand", "Reshape", "Tile"})
"""Operators that give a tensor of the sizes that they read, even where their result may be known."""

_FEW = 64
"""Numbers; a longer constant is data and no list of sizes."""


class OnnxModule(nn.Module):
    """An ONNX graph as a module; made by :func:`make_module`.

    Values live in numbered slots while the graph runs. Slot 0 is "no input". A slot is emptied after its last
    reader, so the memory in use is that of the live values. Where the file computes with one batch only, ``batch`` says
    which, and any other is run in pieces of it. ``origins`` says where in the file each tensor of the state stands, and
    ``constants`` for each folded constant which value of the file it is, and of which shape. ``readers`` says who reads
    the tensors that the file shares although nothing ties them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slots: list[Any] = [None]
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        self.state: list[tuple[nn.Module, str, int]] = []
        self.steps: list[Step] = []
        self.batch: int | None = None
        self.weights_only = False
        self.origins: dict[str, tuple[str, ...]] = {}
        self.constants: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.readers: dict[str, tuple[str, int]] = {}

    def changed_constants(self) -> dict[str, Tensor]:
        """The folded constants that structure edits cut, by the name of the value in the file."""
        now = {name: (self.get_buffer(path), shape) for path, (name, shape) in self.constants.items()}
        return {name: tensor for name, (tensor, shape) in now.items() if tuple(tensor.shape) != shape}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the graph; one tensor, or a tuple where the graph has several outputs."""
        if self.weights_only:
            raise ModelRefused("only the weights of this file were read, so it does not run: steps that need data cannot be used")
        if self.batch is not None and inputs[0].shape[0] != self.batch:
            pieces = [flatten_outputs(self.forward(*piece)) for piece in in_pieces(inputs, self.batch)]
            joined = tuple(torch.cat(parts)[: inputs[0].shape[0]] for parts in zip(*pieces, strict=True))
            return joined[0] if len(joined) == 1 else joined
        slots = self.slots.copy()
        for slot, value in zip(self.inputs, inputs, strict=True):
            slots[slot] = value
        for owner, name, slot in self.state:
            slots[slot] = getattr(owner, name)
        device = inputs[0].device if inputs else torch.device("cpu")
        # Only factories (arange, zeros) need to be told the device; the context costs time, so the CPU goes without.
        with nullcontext() if device.type == "cpu" else device:
            run_steps(self.steps, slots)
            outputs = tuple(as_tensor(slots[slot]) for slot in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs


def make_module(plan: Plan, *, runnable: bool = True) -> OnnxModule:
    """The module of a plan.

    Args:
        plan: The graph taken apart.
        runnable: False leaves the calls out: a module that only holds the weights.
    """
    kind = type("OnnxModule", (OnnxModule,), {"forward": _forward_of(plan.inputs), "__doc__": OnnxModule.__doc__})
    module: OnnxModule = kind()
    builder = _Builder(plan, module)
    builder.add_state()
    if runnable:
        builder.add_calls()
    else:
        module.weights_only = True
    return module


def _forward_of(inputs: list[str]) -> Callable[..., Any]:
    """A forward whose signature names the graph's inputs, which ``torch.export`` reads."""

    def forward(self: OnnxModule, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        return OnnxModule.forward(self, *values)

    names = _identifiers(inputs)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return forward


def _identifiers(names: list[str]) -> list[str]:
    """Names as Python identifiers, distinct."""
    found: list[str] = []
    for index, name in enumerate(names):
        plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
        valid = plain.isidentifier() and plain not in found and plain != "self"
        found.append(plain if valid else f"input_{index}")
    return found


class _Builder:
    """Gives each name a slot and binds the calls."""

    def __init__(self, plan: Plan, module: OnnxModule) -> None:
        self.plan = plan
        self.module = module
        self.slots: dict[str, int] = {"": 0}
        self.known_slots: dict[str, int] = {}
        self.maybe_known: set[str] = set()
        self.size_sources: dict[str, nn.Module] = {}

    def slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = len(self.module.slots)
            self.module.slots.append(None)
        return self.slots[name]

    def add_state(self) -> None:
        names = torch_names(list(self.plan.state))
        for name, tensor in self.plan.state.items():
            owner, attribute = _make_owner(self.module, names[name])
            if name in self.plan.parameters:
                owner.register_parameter(attribute, nn.Parameter(tensor))
            else:
                owner.register_buffer(attribute, tensor)
            self.module.state.append((owner, attribute, self.slot(name)))
            self.module.origins[names[name]] = self.plan.origins[name]
            if name in self.plan.readers:
                self.module.readers[names[name]] = self.plan.readers[name]

    def add_calls(self) -> None:
        self.module.inputs = [self.slot(name) for name in self.plan.inputs]
        levels = float_levels(self.plan)
        self.module.steps = [self.step(call, keep_floats=bool(levels & set(call.outputs))) for call in self.plan.calls]
        self.module.outputs = [self.tensor_slot(name) for name in self.plan.outputs]
        self.mark_finished()

    def step(self, call: Call, *, keep_floats: bool = False) -> Step:
        """The call bound, its inputs and outputs in slots."""
        if call.branches:
            return self.branching(call) if len(call.branches) == 2 else self.looping(call, *call.branches)
        entry, attributes = call.entry, dict(call.attributes)
        if keep_floats and "straight_through" in entry.keywords:
            attributes["straight_through"] = True
        rule = self.shape_rule(call)
        arriving, inputs = [], []
        for position, name in enumerate(call.inputs):
            kind, slot = self.arrival(name, "value" if rule is not None else entry.kind(position))
            arriving.append(kind)
            inputs.append(slot)
        if rule is not None or entry.name in ("Shape", "Size"):
            self.maybe_known.update(call.outputs)
        stated = {
            name: attributes.pop(name)
            for name in SIZED_ATTRIBUTES.get(entry.name, ())
            if rule is None and _states_size(attributes.get(name))
        }
        function = self.sized(call, bind(entry, attributes, arriving, rule), inputs, stated)
        return Step(function, tuple(inputs), tuple(self.slot(name) for name in call.outputs), (), call.label)

    def sized(
        self, call: Call, function: Callable[..., Any], inputs: list[int], attributes: dict[str, Any]
    ) -> Callable[..., Any]:
        """The call as a module, where it states sizes, or takes them from a call that does."""
        name = call.entry.name
        if name == "Concat" and not self.maybe_known & set(call.outputs):
            return function
        positions = [position for position in SIZED_INPUTS.get(name, ()) if position < len(inputs)]
        known = {p: self.module.slots[inputs[p]] for p in positions if call.inputs[p] in self.plan.constants}
        stated = {position: value for position, value in known.items() if isinstance(value, Known) and value.array.size <= _FEW}
        source = next((self.size_sources[n] for n in call.inputs if n in self.size_sources and n in self.maybe_known), None)
        if not stated and not attributes:
            if source is None or not (positions or self.maybe_known & set(call.outputs)):
                return function
            if name not in _MAKES_TENSORS and self.maybe_known & set(call.outputs):
                # Arithmetic on sizes: what reads the result finds them where they are stated.
                self.size_sources.update(dict.fromkeys(call.outputs, source))
                return function
        holder = SizedCall(function, stated, attributes)
        parent = source if source is not None and not stated else self.sizes_folder()
        parent.add_module(call.outputs[0].replace("%", "%25").replace(".", "%2E"), holder)
        if self.maybe_known & set(call.outputs):
            self.size_sources.update(dict.fromkeys(call.outputs, holder))
        return holder

    def sizes_folder(self) -> nn.Module:
        if not hasattr(self.module, _SIZES):
            self.module.add_module(_SIZES, nn.Module())
        return self.module.get_submodule(_SIZES)

    def branching(self, call: Call) -> Step:
        """An ``If``: all that either side reads is among its inputs, which keeps it alive."""
        condition = self.slot(call.inputs[0])
        first, second = ([self.step(inner) for inner in branch.calls] for branch in call.branches)
        outputs = tuple([self.tensor_slot(name) for name in branch.outputs] for branch in call.branches)
        if any(name in self.maybe_known for branch in call.branches for name in branch.outputs):
            self.maybe_known.update(call.outputs)
        read = {slot for step in (*first, *second) for slot in step.inputs} | set(outputs[0]) | set(outputs[1])
        branches = Branches(condition, (first, second), (outputs[0], outputs[1]))
        written = tuple(self.slot(name) for name in call.outputs)
        return Step(call.entry.function, (condition, *sorted(read)), written, (), call.label, branches)

    def looping(self, call: Call, body: Branch) -> Step:
        """A ``Loop``: what is known when it starts may be known in every round, so that counting stays with numbers."""
        given = call.inputs[: len(body.inputs)]
        arriving = tuple(self.arrival(name, "value")[1] for name in given)
        known = [name in self.maybe_known or self.is_small_constant(name) for name in given]
        self.maybe_known.update(name for name, maybe in zip(body.inputs, [True, True, *known[2:]], strict=True) if maybe)
        inputs = tuple(self.slot(name) for name in body.inputs)
        steps = [self.step(inner) for inner in body.calls]
        outputs = tuple(self.arrival(name, "value")[1] for name in body.outputs)
        self.maybe_known.update(name for name, maybe in zip(call.outputs, known[2:], strict=False) if maybe)
        read = {slot for step in steps for slot in step.inputs} | set(outputs)
        written = tuple(self.slot(name) for name in call.outputs)
        loop = Loop(steps, arriving, inputs, outputs)
        return Step(call.entry.function, (*arriving, *sorted(read)), written, (), call.label, loop)

    def shape_rule(self, call: Call) -> Callable[..., Any] | None:
        """The rule for known values, where every input may be known and one of them only when the graph runs."""
        inputs = [name for name in call.inputs if name]
        if not any(name in self.maybe_known for name in inputs):
            return None
        if not all(name in self.maybe_known or self.is_small_constant(name) for name in inputs):
            return None
        return find_shape_rule(call.entry.domain, call.entry.name)

    def is_small_constant(self, name: str) -> bool:
        return name in self.plan.constants and self.plan.constants[name].numel() <= LARGEST_KNOWN

    def arrival(self, name: str, wanted: Kind) -> tuple[Kind, int]:
        """How a value comes to a call, and in which slot; constants come as they are wanted."""
        if not name:
            return "value", 0
        if name in self.plan.constants:
            if wanted == "tensor" or not self.is_small_constant(name):
                return "tensor", self.tensor_slot(name)
            return "known", self.known_slot(name)
        return ("value" if name in self.maybe_known else "tensor"), self.slot(name)

    def tensor_slot(self, name: str) -> int:
        """The slot of a value as a tensor; a constant becomes a buffer that is not saved."""
        if name in self.plan.constants and name not in self.slots:
            if not hasattr(self.module, _CONSTANTS):
                self.module.add_module(_CONSTANTS, nn.Module())
            folder = self.module.get_submodule(_CONSTANTS)
            attribute = f"c{sum(1 for _ in folder.buffers())}"
            folder.register_buffer(attribute, self.plan.constants[name], persistent=False)
            self.module.state.append((folder, attribute, self.slot(name)))
            self.module.constants[f"{_CONSTANTS}.{attribute}"] = (name, tuple(self.plan.constants[name].shape))
        return self.slot(name)

    def known_slot(self, name: str) -> int:
        if name not in self.known_slots:
            self.known_slots[name] = len(self.module.slots)
            self.module.slots.append(as_known(self.plan.constants[name]))
        return self.known_slots[name]

    def mark_finished(self) -> None:
        """Note after which step each computed value is no longer read."""
        alive = set(self.module.outputs)
        steps = self.module.steps
        for index in reversed(range(len(steps))):
            step = steps[index]
            finished = {slot for slot in (*step.inputs, *step.outputs) if slot not in alive and slot}
            alive |= finished
            steps[index] = step._replace(finished=tuple(finished))


def _states_size(value: Any) -> bool:
    return (isinstance(value, int) and value > 1) or (isinstance(value, list) and any(number > 1 for number in value))


def _make_owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that a dotted name lives in, made where it is missing, and the name's last piece."""
    *path, attribute = name.split(".")
    for piece in path:
        if not hasattr(module, piece):
            module.add_module(piece, nn.Module())
        module = module.get_submodule(piece)
    return module, attribute
