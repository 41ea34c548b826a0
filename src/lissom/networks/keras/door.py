"""From a Keras model or file to a Network: what it takes, what it is called, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
        input_shapes: Shapes of a sample, for a model of a class of its own that does not say them.
        data: Where example inputs come from then.

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
    dynamic = {
        name: {axis: f"{name}_{axis}" for axis, length in enumerate(tensor.shape) if axis and length is None}
        for name, tensor in zip(names, tensors, strict=True)
    }
    network = Network(
        module,
        _examples(module, tensors),
        input_names=names,
        output_names=_free([str(name) for name in getattr(model, "output_names", None) or [model.layers[-1].name]]),
        dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
        preprocess=preprocess,
        source=Source("keras", location),
    )
    network.trial_run()
    return network


def _examples(module: KerasModule, tensors: Sequence[Any]) -> tuple[Tensor, ...]:
    """Inputs on which the model runs: open axes get the first length that works."""
    failure = "it has no inputs"
    open_axes = any(length is None for tensor in tensors for length in tensor.shape[1:])
    for length in OPEN_LENGTHS if open_axes else OPEN_LENGTHS[:1]:
        inputs = tuple(_example(tensor, length) for tensor in tensors)
        try:
            with torch.no_grad():
                module.eval()(*inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            failure = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        else:
            return inputs
    raise ModelRefused(f"the Keras model does not run on inputs of the shapes that it states: {failure}")


def _example(tensor: Any, length: int) -> Tensor:
    lengths = [length if size is None else size for size in tensor.shape[1:]]
    dtype = tensor.dtype if isinstance(tensor.dtype, str) else str(tensor.dtype)
    if dtype == "string":
        raise ModelRefused(
            f"input {tensor.name} takes text, which only TensorFlow computes with: cut the model behind its text layers"
        )
    dtype = {"uint16": "int32", "uint32": "int64"}.get(dtype, dtype)  # what Keras has for them on torch
    return from_shape(f"{'x'.join(map(str, lengths))}:{dtype}")


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
