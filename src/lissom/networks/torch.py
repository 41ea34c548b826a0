"""The torch door: ``package.module:callable`` builds the network, and ``--weights`` fills it."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lissom.callables import current_folder_first, load_callable
from lissom.errors import ModelRefused, UsageError
from lissom.network import Network, Preprocess, Source
from lissom.networks.examples import InputShape, find_example_inputs
from lissom.networks.keras import is_keras_model, open_keras
from lissom.networks.weights import load_weights, read_weights

__all__ = ["open_callable", "open_module"]


def open_callable(
    name: str,
    *,
    weights: str | Path | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[InputShape] | None = None,
    data: Any = None,
) -> Network:
    """The network that ``module:callable`` builds: an ``nn.Module`` or a :class:`~lissom.network.Network`.

    Args:
        name: ``package.module:callable``, looked up in the current folder first; called without arguments.
        weights: A ``.safetensors`` or ``.pt`` file to load into it; None keeps what the callable gave it.
        preprocess: Replaces the network's own.
        input_shapes: The shape of a sample for each input; replaces the network's own example inputs.
        data: Where example inputs come from if nothing else says.

    Raises:
        UsageError: there is no such callable, or it takes arguments.
        ModelRefused: it gives no network, or the weights do not fit.
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras reads it once, when the callable's module imports it
    build = load_callable(name)
    _refuse_arguments(build, name)
    with current_folder_first():
        built = build()
    network = open_module(built, name=name, weights=weights, preprocess=preprocess, input_shapes=input_shapes, data=data)
    return dataclasses.replace(network, source=Source(network.source.kind, name, network.source.original))


def open_module(
    built: Any,
    *,
    name: str = "",
    weights: str | Path | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[InputShape] | None = None,
    data: Any = None,
) -> Network:
    """A live module or network as a :class:`~lissom.network.Network`; the arguments are those of :func:`open_callable`."""
    if is_keras_model(built):
        return _open_keras(built, name, weights, preprocess, input_shapes, data)
    if not isinstance(built, nn.Module | Network):
        what = f"{name} gives a" if name else "the model is a"
        raise ModelRefused(f"{what} {type(built).__name__}: it must be an nn.Module, a keras.Model or a lissom.Network")
    module = built.module if isinstance(built, Network) else built
    if weights is not None:
        load_weights(module, read_weights(weights), f"{weights} for {name or type(module).__name__}")
    if isinstance(built, Network) and not input_shapes:
        network = dataclasses.replace(built, preprocess=preprocess or built.preprocess)
        network.trial_run()
        return network
    own = built.preprocess if isinstance(built, Network) else getattr(module, "preprocess", None)
    chosen = preprocess or (own if isinstance(own, Preprocess) else None)
    inputs = find_example_inputs(module, input_shapes=input_shapes, data=data, preprocess=chosen)
    if isinstance(built, Network):
        network = dataclasses.replace(built, example_inputs=inputs, preprocess=chosen)
        network.trial_run()
        return network
    return Network(module, inputs, preprocess=chosen)


def _open_keras(
    model: Any,
    name: str,
    weights: str | Path | None,
    preprocess: Preprocess | None,
    input_shapes: Sequence[InputShape] | None,
    data: Any,
) -> Network:
    if weights is not None:
        raise UsageError(
            f"{name or model.name} is a Keras model, which brings its own weights: leave --weights out, and let the callable "
            "load them"
        )
    return open_keras(model, preprocess=preprocess, input_shapes=input_shapes, data=data)


def _refuse_arguments(build: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called without arguments ({error}): write a function that calls it with them"
        ) from error
    except ValueError:  # built-in callables may have no signature; calling them will tell
        return
