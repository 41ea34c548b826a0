"""A Keras model as an ``nn.Module`` whose tensors stand in a tree of its layers, where edits find them.

Keras keeps the tensors of all layers in one flat list and reads them from its own variables. Here each layer is a small
module (:class:`Part`) with the layer's name, and its tensors have the variables' names: ``conv2d.kernel``,
``encoder.attention.query.kernel``. A call hands these tensors to Keras in the variables' stead (``keras.StatelessScope``),
so parametrizations, training and slicing work as on any module, and the Keras model itself is never changed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.rebuild import rebuilt, stated_sizes
from lissom.networks.keras.walk import Place, places

__all__ = ["KerasModule", "Part"]


class Part(nn.Module):
    """One layer of a Keras model: its own tensors under its variables' names, and the sizes that its code states.

    Its class is named after the layer's (``Dense``), which is what lists of layers show.
    """

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the layer computes, so that the graph knows which layer did."""
        return call(*args, **kwargs)


@functools.cache
def _part_class(name: str) -> type[Part]:
    return type(name, (Part,), {"__doc__": f"The tensors of a Keras layer {name}.", "__module__": __name__})


class _Skeleton:
    """A Keras model, and where each of its layers and variables stands; copies of a module share it."""

    def __init__(self, model: Any, paths: Sequence[str] = ()) -> None:
        self.model = model
        self.places: tuple[Place, ...] = places(model, paths)
        self.shapes = {
            (place.path, name): tuple(variable.shape) for place in self.places for name, variable in place.variables.items()
        }
        self.sizes = {place.path: stated_sizes(place.operation) for place in self.places}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Skeleton:
        return self

    @contextlib.contextmanager
    def routed(self, module: nn.Module) -> Iterator[None]:
        """For as long as the block runs, each layer's call goes through the part of ``module`` that has its path."""
        parts = dict(module.named_modules(remove_duplicate=False))
        layers = [vars(place.operation) for place in self.places if place.path and place.path in parts]
        routes = [_route(parts[place.path], place.operation.call) for place in self.places if place.path and place.path in parts]
        unrolled = [attributes.get("unroll") for attributes in layers]
        try:
            for attributes, route in zip(layers, routes, strict=True):
                # Set past Keras' own bookkeeping of attributes, which would take a part for a layer of the model.
                attributes["call"] = route
                if "unroll" in attributes:  # Keras' loop over steps iterates over the batch, too, which would fix its size
                    attributes["unroll"] = True
            yield
        finally:
            for attributes, unroll in zip(layers, unrolled, strict=True):
                attributes.pop("call", None)
                if unroll is not None:
                    attributes["unroll"] = unroll


def _route(part: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    if isinstance(part, Part):
        return functools.partial(part, call)
    return lambda *args, **_: part(*args)  # what took the layer's place knows nothing of masks and training


class KerasModule(nn.Module):
    """A Keras model that torch can edit, train and export.

    Its tensors decide: where they have other shapes than the Keras model's (channels went), the model is built anew from
    its configuration with the sizes that follow (:mod:`lissom.networks.keras.rebuild`) before the next call.

    Args:
        model: A built ``keras.Model`` on the torch backend; left as it is.

    Example:
        >>> keras = import_keras()
        >>> module = KerasModule(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")]))
        >>> [(name, tuple(tensor.shape)) for name, tensor in module.named_parameters()]
        [('head.kernel', (3, 2)), ('head.bias', (2,))]
        >>> module(torch.zeros(1, 3)).shape
        torch.Size([1, 2])
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.skeleton = _Skeleton(model)
        for number, place in enumerate(self.skeleton.places):
            part = _part_class(type(place.operation).__name__)() if place.path else self
            if place.path:
                path, _, name = place.path.rpartition(".")
                self.get_submodule(path).add_module(name, part)
            for name, variable in place.variables.items():
                _register(part, name, variable, trainable=name in place.parameters, number=number)
            for name, size in self.skeleton.sizes[place.path].items():
                setattr(part, name, size)

    def forward(self, *inputs: Tensor) -> Any:
        """The model's outputs, flat: one tensor, or a tuple of them.

        Args:
            inputs: One tensor for each of the model's inputs, in their order.
        """
        keras = import_keras()
        self.fit()
        mapping, buffers = [], []
        for place in self.skeleton.places:
            owner = self._part(place.path)
            for name, variable in place.variables.items():
                tensor = getattr(owner, name, None)
                if tensor is None:  # another module took the layer's place
                    continue
                _same_dtype(tensor, variable, f"{place.path}.{name}")
                mapping.append((variable, tensor))
                if name not in place.parameters:
                    buffers.append((variable, tensor))
        device = mapping[0][1].device if mapping else inputs[0].device
        model = self.skeleton.model
        idle = _IdleCasts() if torch.compiler.is_exporting() else contextlib.nullcontext()
        with idle, self.skeleton.routed(self), keras.device(str(device)), keras.StatelessScope(mapping) as scope:
            outputs = model(_packed(keras, model, inputs), **_training(model, training=self.training))
        if self.training:  # what a call changed: moving statistics, states of random generators
            with torch.no_grad():
                for variable, tensor in buffers:
                    tensor.copy_(scope.get_current_value(variable))
        flat = keras.tree.flatten(outputs)
        return flat[0] if len(flat) == 1 else tuple(flat)

    def fit(self) -> None:
        """Bring the Keras model in line with the tensors' shapes and the parts' sizes.

        Raises:
            ValueError: no configuration of the model's layers has these shapes.
        """
        if self._shapes() != self.skeleton.shapes or self._sizes() != self.skeleton.sizes:
            self.skeleton = _Skeleton(self._rebuilt(), self._paths())

    def standalone(self) -> tuple[Any, tuple[Place, ...]]:
        """A Keras model of its own with these sizes and new weights, and its layers by the paths that they have here.

        Raises:
            ValueError: the model is of a class of its own, which does not say how it is built, or as for :meth:`fit`.
        """
        blocks = [path for path in self._replaced() if any(True for _ in self.get_submodule(path).parameters())]
        if blocks:
            raise ValueError(f"no layer of Keras is what stands now in the place of {', '.join(sorted(blocks))}")
        model = self._rebuilt()
        return model, places(model, self._paths())

    def _rebuilt(self) -> Any:
        return rebuilt(self.skeleton.model, self.skeleton.places, self._shapes(), self._sizes(), self._replaced())

    def _replaced(self) -> frozenset[str]:
        """Paths of layers in whose place stands a module that lets its input pass."""
        parts = ((place.path, self._part(place.path)) for place in self.skeleton.places if place.path)
        return frozenset(path for path, part in parts if part is not None and not isinstance(part, Part))

    def _paths(self) -> tuple[str, ...]:
        """Paths of the layers that are left, in their order."""
        gone = self._replaced()
        return tuple(place.path for place in self.skeleton.places if not any(place.path.startswith(f"{path}.") for path in gone))

    def _part(self, path: str) -> nn.Module | None:
        """The module that stands at a path; None inside a layer that is gone."""
        found: nn.Module | None = self
        for name in path.split(".") if path else ():
            found = None if found is None else found._modules.get(name)  # noqa: SLF001
        return found

    def _shapes(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """The shapes that the tensors have now; a variable whose layer is gone keeps its own."""
        found = {}
        for place in self.skeleton.places:
            owner = self._part(place.path)
            for name, variable in place.variables.items():
                tensor = getattr(owner, name, None)
                found[place.path, name] = tuple(variable.shape if tensor is None else tensor.shape)
        return found

    def _sizes(self) -> dict[str, dict[str, int]]:
        """The sizes that the parts state now."""
        return {
            path: {name: getattr(self._part(path), name, size) for name, size in stated.items()}
            for path, stated in self.skeleton.sizes.items()
        }


class _IdleCasts(TorchFunctionMode):
    """Leaves out casts to the dtype or the device that a tensor has already.

    Keras casts whatever a layer is given. That costs nothing when it runs, but a capture would write every cast down, and a
    check beside it: two thirds of its nodes, and of the time that everything after it takes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and not kwargs and len(args) == 2 and args[1] in _has(args[0]):
            return args[0]
        return func(*args, **(kwargs or {}))


def _has(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.device, str(tensor.device)


def _register(part: nn.Module, name: str, variable: Any, *, trainable: bool, number: int) -> None:
    value = variable.value.detach().clone()
    if trainable:
        part.register_parameter(name, nn.Parameter(value, requires_grad=variable.trainable))
    elif value.is_floating_point():
        part.register_buffer(name, value)
    else:
        # Keras seeds its generators from the clock: the same training would not give the same weights. Nobody else reads them.
        part.register_buffer(name, torch.zeros_like(value).index_fill_(0, torch.tensor([0]), number) if value.ndim else value,
                             persistent=False)  # fmt: skip


def _same_dtype(tensor: Tensor, variable: Any, name: str) -> None:
    wanted = variable.value.dtype
    if tensor.dtype != wanted:
        raise TypeError(f"{name} is {tensor.dtype}, and the Keras model computes with {wanted}: leave its dtype as it is")


def _packed(keras: Any, model: Any, inputs: Sequence[Tensor]) -> Any:
    """The inputs in the structure in which the model takes them."""
    structure = getattr(model, "input", None) if getattr(model, "inputs", None) else None
    if structure is None or not isinstance(structure, dict | list | tuple):
        return inputs[0] if len(inputs) == 1 else list(inputs)
    return keras.tree.pack_sequence_as(structure, list(inputs))


def _training(model: Any, *, training: bool) -> dict[str, bool]:
    return {"training": training} if "training" in inspect.signature(type(model).call).parameters else {}
