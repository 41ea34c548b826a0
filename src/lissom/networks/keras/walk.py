"""The layers of a Keras model as a tree of paths, and the variables that each layer itself holds."""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lissom.networks.keras.backend import import_keras

__all__ = ["Place", "children", "places"]


NUMBERED = re.compile(r"^variable_\d+$")
"""What Keras calls a variable that nobody named: it counts them, and another instance of the model has other numbers."""


@dataclass(frozen=True, eq=False)
class Place:
    """One layer or operation of a model.

    Args:
        path: Names from the model down, joined by dots; empty for the model.
        operation: The layer or operation.
        variables: Its own variables, not those of layers inside it, by name.
        parameters: Names of those that training moves; the others are statistics and states of random generators.
    """

    path: str
    operation: Any
    variables: Mapping[str, Any]
    parameters: frozenset[str]


def places(model: Any, paths: Sequence[str] = ()) -> tuple[Place, ...]:
    """Every layer and operation of ``model``, each once, parents before children.

    Args:
        model: A Keras model.
        paths: Of the same layers in the same order, in another instance of the model: Keras numbers layers that nobody
            named, and gives them other numbers each time.

    Raises:
        ValueError: the model has another number of layers than ``paths``.
    """
    found = tuple(_walk(model, "", _trainable(model), set()))
    if not paths:
        return found
    if len(paths) != len(found):
        raise ValueError(f"built anew, the model has {len(found)} layers instead of {len(paths)}")
    return tuple(dataclasses.replace(place, path=path) for place, path in zip(found, paths, strict=True))


def _walk(operation: Any, path: str, trainable: set[int], seen: set[int]) -> Iterator[Place]:
    seen.add(id(operation))
    inside = [child for child in children(operation) if id(child) not in seen]
    inner = {id(variable) for child in children(operation) for variable in getattr(child, "variables", ())}
    own = [variable for variable in getattr(operation, "variables", ()) if id(variable) not in inner and id(variable) not in seen]
    own = [variable for variable in own if not _is_metric(operation, variable)]
    seen.update(map(id, own))
    taken: set[str] = set()
    names = {_free(NUMBERED.sub("variable", variable.name), taken): variable for variable in own}
    yield Place(path, operation, names, frozenset(name for name, variable in names.items() if id(variable) in trainable))
    for child in inside:
        if id(child) not in seen:  # one layer may stand in two places
            name = _free(child.name, taken)
            yield from _walk(child, f"{path}.{name}" if path else name, trainable, seen)


def children(operation: Any) -> list[Any]:
    """The layers and operations directly inside a layer, in its own order."""
    found: Iterable[Any]
    if isinstance(operation, import_keras().Sequential):
        found = operation.layers  # beside them it keeps a functional model of the same layers for itself
    elif hasattr(operation, "operations"):  # a functional model: also what is no layer, such as ops.reshape
        found = operation.operations
    else:
        found = getattr(operation, "_layers", ())
    return [child for child in dict.fromkeys(found) if type(child).__name__ != "InputLayer" and hasattr(child, "call")]


def _trainable(model: Any) -> set[int]:
    """Variables that training moves where nothing is frozen: kernels, and no moving statistics."""
    layers = [model, *_below(model, set())]
    flags = [layer.trainable for layer in layers]
    try:
        model.trainable = True
        return {id(variable) for variable in model.trainable_variables}
    finally:
        for layer, flag in zip(layers, flags, strict=True):  # parents first: they set their children's
            layer.trainable = flag


def _below(layer: Any, seen: set[int]) -> Iterator[Any]:
    for child in children(layer):
        if id(child) not in seen and hasattr(child, "trainable"):
            seen.add(id(child))
            yield child
            yield from _below(child, seen)


def _is_metric(operation: Any, variable: Any) -> bool:
    return any(variable is other for metric in getattr(operation, "metrics", ()) for other in metric.variables)


def _free(name: str, taken: set[str]) -> str:
    """A name that torch takes for a submodule or parameter, and writes into the code of graphs, and that is not taken."""
    plain = name.replace(".", "_").replace("/", "_")
    while plain in taken or hasattr(_PLAIN, plain) or keyword.iskeyword(plain):
        plain += "_"
    taken.add(plain)
    return plain


_PLAIN = nn.Module()
