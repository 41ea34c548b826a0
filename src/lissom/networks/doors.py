"""The front doors: a model file, a callable by name, or a live module becomes a :class:`~lissom.network.Network`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import Tensor, nn

from lissom.callables import names_callable
from lissom.errors import ModelRefused, UnknownOperators, UsageError
from lissom.network import Network, Preprocess
from lissom.networks.examples import InputShape, from_shape
from lissom.networks.preprocess import read_preprocess
from lissom.networks.saved_model import convert_saved_model, is_saved_model

__all__ = ["open_network"]


def open_network(
    model: str | os.PathLike[str] | nn.Module | Network,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    input_shapes: Sequence[InputShape] | None = None,
    data: Any = None,
    *,
    partial: bool = False,
    trust: bool = False,
) -> Network:
    """Open a trained network, whichever door it comes through.

    Args:
        model: A ``.onnx``, ``.pt2``, ``.keras`` or ``.h5`` file; a TensorFlow SavedModel's folder; ``package.module:callable``,
            looked up in the current folder first; or a live ``nn.Module``, ``keras.Model`` or :class:`~lissom.network.Network`.
        weights: A ``.safetensors`` or ``.pt`` file for a callable or a module.
        preprocess: A name (``"imagenet"``, ``"unit"`` …), a YAML or JSON file, fields, or a ``Preprocess``.
        input_shapes: The shape of one sample for each input, without the batch: ``["1x28x28"]``, ``["128:int64"]``; for a
            ``.onnx`` file only where its own declared shapes do not say enough.
        data: Where example inputs come from if neither ``input_shapes`` nor the module or the file says.
        partial: Whether a ``.onnx`` file with operators that lissom cannot run is opened by its weights alone.
        trust: Whether a Keras file may bring Python code along (Lambda layers), and TensorFlow may load a SavedModel.

    Raises:
        ModelRefused: no such file, a kind that has no door, damaged, NaN in the weights, or it does not run.
        UsageError: no such callable or preprocess, or an option that this door does not take.

    Example:
        >>> open_network(nn.Linear(3, 2), input_shapes=["3"]).output_names
        ('output',)
    """
    chosen = None if preprocess is None else read_preprocess(preprocess)
    path = None if weights is None else Path(weights)
    if not isinstance(model, str | os.PathLike):
        from lissom.networks.torch import open_module

        return open_module(model, weights=path, preprocess=chosen, input_shapes=input_shapes, data=data)
    file = Path(model)
    if names_callable(str(model)) and not file.exists():
        from lissom.networks.torch import open_callable

        return open_callable(str(model), weights=path, preprocess=chosen, input_shapes=input_shapes, data=data)
    opener = _opener(file)
    if path is not None or (input_shapes and opener is _open_pt2):
        option = "--weights" if path is not None else "--input"
        raise UsageError(f"{file} brings its own weights and shapes: leave {option} out; it goes with  module:callable")
    network = opener(file, _Asked(chosen, input_shapes, data, partial, trust))
    return network if chosen is None else dataclasses.replace(network, preprocess=chosen)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the caller said beside the file."""

    preprocess: Preprocess | None
    input_shapes: Sequence[InputShape] | None
    data: Any
    partial: bool
    trust: bool


def _opener(file: Path) -> Callable[[Path, _Asked], Network]:
    suffix = file.suffix.lower()
    if is_saved_model(file):
        return _open_saved_model
    if suffix in _PICKLES:
        raise ModelRefused(
            f"{file} is a pickle, which can run any code and does not say how its network computes: give  module:callable  that "
            f"builds the network, with  --weights {file}"
        )
    if suffix == ".safetensors":
        raise ModelRefused(f"{file} holds weights and no network: give  module:callable  that builds it, with  --weights {file}")
    opener = _OPENERS.get(suffix)
    if opener is None:
        raise ModelRefused(f"{file} has no door: give {', '.join(_OPENERS)}, or  package.module:callable  with  --weights FILE")
    if not file.is_file():
        raise ModelRefused(f"no model file {file}: check the path, or give  package.module:callable")
    return opener


def _open_saved_model(file: Path, asked: _Asked) -> Network:
    network = _open_onnx(convert_saved_model(file, trust=asked.trust), asked)
    return dataclasses.replace(network, source=dataclasses.replace(network.source, location=str(file)))


def _open_onnx(file: Path | ModelProto, asked: _Asked) -> Network:
    from lissom.data import example_inputs
    from lissom.networks.onnx import read_onnx

    shapes = None if not asked.input_shapes else [from_shape(shape) for shape in asked.input_shapes]

    def of_data(names: tuple[str, ...]) -> tuple[Tensor, ...]:
        return example_inputs(asked.data, names, asked.preprocess)

    try:
        return read_onnx(file, shapes, otherwise=None if asked.data is None else of_data)
    except UnknownOperators:
        if not asked.partial:
            raise
        return read_onnx(file, shapes, weights_only=True)


def _open_pt2(file: Path, _asked: _Asked) -> Network:
    from lissom.networks.pt2 import read_pt2

    return read_pt2(file)


def _open_keras(file: Path, asked: _Asked) -> Network:
    from lissom.networks.keras import read_keras

    return read_keras(file, trust=asked.trust, input_shapes=asked.input_shapes, data=asked.data)


_OPENERS: dict[str, Callable[[Path, _Asked], Network]] = {
    ".onnx": _open_onnx, ".pt2": _open_pt2, ".keras": _open_keras, ".h5": _open_keras,
}  # fmt: skip
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
