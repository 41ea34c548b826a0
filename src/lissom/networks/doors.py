"""The front doors: a model file, a callable by name, or a live module becomes a :class:`~lissom.network.Network`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lissom.callables import names_callable
from lissom.errors import ModelRefused, UsageError
from lissom.network import Network, Preprocess
from lissom.networks.examples import InputShape
from lissom.networks.preprocess import read_preprocess

__all__ = ["open_network"]


def open_network(
    model: str | os.PathLike[str] | nn.Module | Network,
    weights: str | os.PathLike[str] | None = None,
    preprocess: Preprocess | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    input_shapes: Sequence[InputShape] | None = None,
    data: Any = None,
) -> Network:
    """Open a trained network, whichever door it comes through.

    Args:
        model: A ``.onnx`` or ``.pt2`` file; ``package.module:callable``, looked up in the current folder first; or a live
            ``nn.Module`` or :class:`~lissom.network.Network`.
        weights: A ``.safetensors`` or ``.pt`` file for a callable or a module.
        preprocess: A name (``"imagenet"``, ``"unit"`` …), a YAML or JSON file, fields, or a ``Preprocess``.
        input_shapes: The shape of one sample for each input, without the batch: ``["1x28x28"]``, ``["128:int64"]``.
        data: Where example inputs come from if neither ``input_shapes`` nor the module says.

    Raises:
        ModelRefused: no such file, a kind that has no door, damaged, NaN in the weights, or it does not run.
        UsageError: no such callable or preprocess, or an option that this door does not take.

    Example:
        >>> open_network(nn.Linear(3, 2), input_shapes=["3"]).output_names
        ('output',)
    """
    chosen = None if preprocess is None else read_preprocess(preprocess)
    path = None if weights is None else Path(weights)
    if isinstance(model, nn.Module | Network):
        from lissom.networks.torch import open_module

        return open_module(model, weights=path, preprocess=chosen, input_shapes=input_shapes, data=data)
    file = Path(model)
    if names_callable(str(model)) and not file.exists():
        from lissom.networks.torch import open_callable

        return open_callable(str(model), weights=path, preprocess=chosen, input_shapes=input_shapes, data=data)
    network = _open_file(file, weights=path, input_shapes=input_shapes)
    return network if chosen is None else dataclasses.replace(network, preprocess=chosen)


def _open_file(file: Path, *, weights: Path | None, input_shapes: Sequence[InputShape] | None) -> Network:
    suffix = file.suffix.lower()
    if suffix in _PICKLES:
        raise ModelRefused(
            f"{file} is a pickle, which can run any code and does not say how its network computes: give  module:callable  that "
            f"builds the network, with  --weights {file}"
        )
    if suffix == ".safetensors":
        raise ModelRefused(f"{file} holds weights and no network: give  module:callable  that builds it, with  --weights {file}")
    if suffix in _LATER:
        raise ModelRefused(f"{file}: {_LATER[suffix]}")
    opener = _OPENERS.get(suffix)
    if opener is None:
        raise ModelRefused(f"{file} has no door: give {', '.join(_OPENERS)}, or  package.module:callable  with  --weights FILE")
    if not file.is_file():
        raise ModelRefused(f"no model file {file}: check the path, or give  package.module:callable")
    if weights is not None or input_shapes:
        option = "--weights" if weights is not None else "--input"
        raise UsageError(f"{file} brings its own weights and shapes: leave {option} out; it goes with  module:callable")
    return opener(file)


def _open_onnx(file: Path) -> Network:
    from lissom.networks.onnx import read_onnx

    return read_onnx(file)


def _open_pt2(file: Path) -> Network:
    from lissom.networks.pt2 import read_pt2

    return read_pt2(file)


_OPENERS: dict[str, Callable[[Path], Network]] = {".onnx": _open_onnx, ".pt2": _open_pt2}
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
_EXPORT_KERAS = "Keras files are not read yet: export it with  model.export('model.onnx', format='onnx')  and give that file"
_LATER = {".keras": _EXPORT_KERAS, ".h5": _EXPORT_KERAS}
