"""From a Keras model or file to a Network: what it takes, what it is called, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.network import Network, Preprocess, Source
from lissom.networks.examples import InputShape, find_example_inputs, from_shape
from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.file import load
from lissom.networks.keras.module import KerasModule

__all__ = ["open_keras", "read_keras"]

OPEN_LENGTHS = (16, 32, 64, 128, 224, 299)
"""What is tried, in order, for an axis whose length the model leaves open."""


def read_keras(
    path: str | Path, *, trust: bool = False, input_shapes: Sequence[InputShape] | None = None, data: Any = None
) -> Network:
    """The network of a ``.keras`` or ``.h5`` file; nothing in the file is run as code.

    Args:
        path: The file.
        trust: Allow Python code that the file brings along (Lambda layers).
        input_shapes: As for :func:`open_keras`.
        data: As for :func:`open_keras`.

    Raises:
        MissingExtra: Keras is not installed.
        ModelRefused: damaged, with code and without ``trust``, with classes that nobody registered, or never built.
    """
    model, notes = load(Path(path), trust=trust)
    return open_keras(model, location=str(path), input_shapes=input_shapes, data=data).noting(*notes)


def open_keras(
    model: Any,
    *,
    location: str = "",
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[InputShape] | None = None,
    data: Any = None,
) -> Network:
    """The network of a live Keras model, which is left as it is.

    Args:
        model: A built ``keras.Model``.
        location: The file that it came from.
        preprocess: How uint8 images become inputs.
        input_shapes: Shapes of a sample, where the model leaves a length open or, being of a class of its own, says none.
        data: What says so otherwise.

    Raises:
        ModelRefused: another backend is live, or the model was never built.

    Example:
        >>> keras = import_keras()
        >>> open_keras(keras.Sequential([keras.Input((3,), name="features"), keras.layers.Dense(2)])).input_names
        ('features',)
    """
    import_keras()
    if not model.built or (not model.variables and not getattr(model, "inputs", None)):
        raise ModelRefused(
            f"the Keras model {model.name} was never built, so its layers have no weights: call  model.build(input_shape)  or "
            "run it on a batch, then give or save it again"
        )
    module = KerasModule(model)
    tensors = getattr(model, "inputs", None)
    if not tensors:
        inputs = find_example_inputs(module, input_shapes=input_shapes or _built_with(model), data=data, preprocess=preprocess)
        return Network(module, inputs, preprocess=preprocess, source=Source("keras", location))
    names = _free([tensor.name for tensor in tensors])
    opened = {
        name: {axis: f"{name}_{axis}" for axis, length in enumerate(tensor.shape) if axis and length is None}
        for name, tensor in zip(names, tensors, strict=True)
    }
    inputs = _examples(module, tensors, _stated(module, tensors, opened, input_shapes, data, preprocess))
    dynamic, notes = _dynamic(module, opened, inputs)
    network = Network(
        module,
        inputs,
        input_names=names,
        output_names=_free([str(name) for name in getattr(model, "output_names", None) or [model.layers[-1].name]]),
        dynamic_axes=dynamic,
        preprocess=preprocess,
        source=Source("keras", location),
        notes=notes,
    )
    network.trial_run()
    return network


Axes = Mapping[str, Mapping[int, str]]
"""For each input, the axes that the model leaves open, each with a name."""


def _stated(
    module: KerasModule,
    tensors: Sequence[Any],
    opened: Axes,
    input_shapes: Sequence[InputShape] | None,
    data: Any,
    preprocess: Preprocess | None,
) -> list[tuple[int, ...]]:
    """The shape of a sample of each input as the user or the data says it; nothing where nothing is open or said."""
    if not any(opened.values()) or (not input_shapes and data is None):
        return []
    found = find_example_inputs(module, input_shapes=input_shapes, data=data, preprocess=preprocess)
    return [tuple(tensor.shape[1:]) for tensor in found] if len(found) == len(tensors) else []


def _examples(module: KerasModule, tensors: Sequence[Any], stated: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    """Inputs on which the model runs: open axes get the lengths that are stated, else the first one that works."""
    failure = "it has no inputs"
    open_axes = any(length is None for tensor in tensors for length in tensor.shape[1:])
    guesses = [[tuple(length if size is None else size for size in tensor.shape[1:]) for tensor in tensors]
               for length in (OPEN_LENGTHS if open_axes else OPEN_LENGTHS[:1])]  # fmt: skip
    for shapes in [stated] if stated else guesses:
        inputs = tuple(_example(tensor, shape) for tensor, shape in zip(tensors, shapes, strict=True))
        try:
            with torch.no_grad():
                module.eval()(*inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            failure = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        else:
            return inputs
    raise ModelRefused(f"the Keras model does not run on inputs of the shapes that it states: {failure}")


def _dynamic(module: KerasModule, opened: Axes, inputs: Sequence[Tensor]) -> tuple[Axes, tuple[str, ...]]:
    """The axes whose length stays open, and what there is to say: Keras' loop over steps is written out step by step."""
    left = {name: axes for name, axes in opened.items() if axes}
    recurrent = [place.path for place in module.skeleton.places if place.path and hasattr(place.operation, "cell")]
    if not left or not recurrent:
        return left, ()
    shapes = ", ".join("x".join(map(str, tensor.shape[1:])) for tensor, axes in zip(inputs, opened.values(), strict=True) if axes)
    note = f"{recurrent[0]} runs a fixed number of steps in the deployed file, which takes {shapes}: data or --input say how many"
    return {}, (note,)


def _example(tensor: Any, shape: Sequence[int]) -> Tensor:
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else str(tensor.dtype)
    if dtype == "string":
        raise ModelRefused(
            f"input {tensor.name} takes text, which only TensorFlow computes with: cut the model behind its text layers"
        )
    dtype = {"uint16": "int32", "uint32": "int64"}.get(dtype, dtype)  # what Keras has for them on torch
    return from_shape(f"{'x'.join(map(str, shape))}:{dtype}")


def _built_with(model: Any) -> Sequence[InputShape] | None:
    """The shape that a model of a class of its own was built with, where it remembers it."""
    config = model.get_build_config() or {}
    shape = config.get("input_shape")
    if isinstance(shape, list | tuple) and len(shape) > 1 and all(isinstance(length, int) for length in shape[1:]):
        return [tuple(shape[1:])]
    return None


def _free(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with a number where one comes twice: files need each once."""
    taken: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}_{count}" for count in itertools.count(1))
        taken[next(each for each in itertools.chain([name], numbered) if each not in taken)] = None
    return tuple(taken)
