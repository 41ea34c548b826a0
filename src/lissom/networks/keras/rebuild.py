"""A Keras model built anew from its own configuration, with the sizes that its tensors have come to have.

A layer's configuration states how many units, filters or heads it has, and Keras builds variables of those sizes. Where
channels went, the configuration must say so, or no Keras would load the file. So each kind of layer has a small function
that reads the sizes off the shapes of its tensors; a kind without one keeps its sizes, and what would change them is
refused when the model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.walk import Place, children
from lissom.networks.keras.walk import places as walked

__all__ = ["rebuilt", "stated_sizes"]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each variable of one layer, by name."""

ShapesOf = Callable[[Any], Shapes]
"""The shapes of a layer's own variables."""

STATED = ("groups", "target_shape", "newshape", "shape", "indices_or_sections", "sections")
"""What operations and layers state as numbers although none of their variables has that size."""


def stated_sizes(operation: Any) -> dict[str, int]:
    """The numbers that no variable's shape gives: ``{"groups": 4}``, ``{"target_shape_0": 8, "target_shape_1": 8}``."""
    found: dict[str, int] = {}
    if children(operation):
        return found
    for name in STATED:
        value = vars(operation).get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
        elif isinstance(value, list | tuple):
            found.update({f"{name}_{place}": each for place, each in enumerate(value) if type(each) is int})
    return found


def rebuilt(
    model: Any,
    places: Sequence[Place],
    shapes: Mapping[tuple[str, str], tuple[int, ...]],
    sizes: Mapping[str, Mapping[str, int]],
    replaced: Collection[str] = (),
) -> Any:
    """A model of the same layers with other sizes; its weights are new.

    Args:
        model: The model as it was built.
        places: Its layers.
        shapes: By path and variable, the shape that it must have.
        sizes: By path, what :func:`stated_sizes` gives, changed.
        replaced: Paths of layers that let their input pass.

    Raises:
        ValueError: the model has no configuration that can be changed, or none gives these shapes.
    """
    keras = import_keras()
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ValueError(f"{type(model).__name__} is a class of its own, whose configuration lissom cannot change")
    entry = _configuration(keras, model, places, shapes, sizes, replaced)
    try:
        made = keras.saving.deserialize_keras_object(entry, safe_mode=False)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError, AssertionError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"Keras builds no model of the new sizes: {reason}") from error
    left = [place for place in places if not any(place.path.startswith(f"{path}.") for path in replaced)]
    for old, new in zip(left, walked(made, [place.path for place in left]), strict=True):
        for name, variable in new.variables.items():
            wanted = shapes.get((new.path, name))
            if tuple(variable.shape) != wanted:
                raise ValueError(
                    f"{new.path}.{name} has shape {list(wanted or ())}, and a {type(new.operation).__name__} of the "
                    f"configuration that follows has {list(variable.shape)}"
                )
        if hasattr(new.operation, "finalize_state"):  # a layer that keeps its statistics in another form beside its variables
            for name, variable in new.variables.items():
                variable.assign(old.variables[name].value)
            new.operation.finalize_state()
    return made


def _configuration(
    keras: Any,
    model: Any,
    places: Sequence[Place],
    shapes: Mapping[tuple[str, str], tuple[int, ...]],
    sizes: Mapping[str, Mapping[str, int]],
    replaced: Collection[str],
) -> dict[str, Any]:
    """The model's serialised configuration with the sizes that ``shapes`` and ``sizes`` say."""
    entry: dict[str, Any] = keras.saving.serialize_keras_object(model)
    of = {id(place.operation): {name: shapes[place.path, name] for name in place.variables} for place in places}
    stated = {id(place.operation): sizes.get(place.path, {}) for place in places}
    gone = {id(place.operation) for place in places if place.path in replaced}
    _Rewriting(lambda layer: of.get(id(layer), {}), stated, gone).rewrite(model, entry)
    return entry


class _Rewriting:
    """One walk over layers and their serialised configurations, side by side."""

    def __init__(self, shapes_of: ShapesOf, stated: Mapping[int, Mapping[str, int]], gone: set[int]) -> None:
        self.shapes_of, self.stated, self.gone = shapes_of, stated, gone

    def rewrite(self, operation: Any, entry: dict[str, Any]) -> None:
        """Put the new sizes of ``operation`` and of all inside it into ``entry``."""
        entry.pop("build_config", None)  # the shapes that it was built with
        entry.pop("compile_config", None)
        config = entry.get("config")
        if not isinstance(config, dict):
            return
        if id(operation) in self.gone:
            entry.update(module="keras.layers", class_name="Identity", registered_name=None, config={"name": operation.name})
            return
        for kind in type(operation).__mro__:
            if kind.__name__ in SIZES:
                SIZES[kind.__name__](operation, config, self.shapes_of)
                break
        for name, size in self.stated.get(id(operation), {}).items():
            stem, _, place = name.rpartition("_")
            if name in config:
                config[name] = size
            elif stem in config:
                config[stem] = [*config[stem][: int(place)], size, *config[stem][int(place) + 1 :]]
        for inner, serialised in _inside(operation, config):
            self.rewrite(inner, serialised)


def _inside(operation: Any, config: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The layers that a layer's configuration holds, each with its own entry."""
    if isinstance(config.get("layers"), list):
        named = {child.name: child for child in children(operation)}
        for entry in config["layers"]:
            name = entry.get("name") or entry["config"].get("name")
            if name in named:
                yield named[name], entry
    for key in ("layer", "backward_layer", "cell"):
        attribute = "forward_layer" if key == "layer" and hasattr(operation, "forward_layer") else key
        if isinstance(config.get(key), dict) and hasattr(operation, attribute):
            yield getattr(operation, attribute), config[key]
    if isinstance(config.get("cells"), list):
        yield from zip(operation.cells, config["cells"], strict=True)


def _dense(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["units"] = of(layer)["kernel"][-1]


def _einsum_dense(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    """Letters of the kernel say what the output's sizes are; those of the input alone are left open or as they were."""
    kernel = of(layer)["kernel"]
    sides, _, result = config["equation"].partition("->")
    letters = dict(zip(sides.split(",")[1], kernel, strict=True))
    stated = config["output_shape"]
    stated = [stated] if isinstance(stated, int) else list(stated)
    names = result.replace("...", "")[-len(stated) :]
    config["output_shape"] = [letters.get(name, size) for name, size in zip(names, stated, strict=True)]


def _convolution(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["filters"] = of(layer)["kernel"][-1]


def _transposed_convolution(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["filters"] = of(layer)["kernel"][-2]


def _depthwise(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["depth_multiplier"] = of(layer)["kernel"][-1]


def _separable(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    shapes = of(layer)
    config["filters"] = shapes["pointwise_kernel"][-1]
    config["depth_multiplier"] = shapes["depthwise_kernel"][-1]


def _embedding(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["output_dim"] = of(layer)["embeddings"][-1]


def _recurrent(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["units"] = of(layer.cell)["recurrent_kernel"][0]


def _recurrent_cell(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["units"] = of(layer)["recurrent_kernel"][0]


def _recurrent_convolution(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    config["filters"] = of(layer.cell)["recurrent_kernel"][-2]


def _attention(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    query, value, output = (of(each)["kernel"] for each in (layer.query_dense, layer.value_dense, layer.output_dense))
    config.update(num_heads=query[1], key_dim=query[2], value_dim=value[2])
    if config.get("output_shape") is not None or tuple(output[2:]) != query[:1]:
        config["output_shape"] = list(output[2:])


def _grouped_attention(layer: Any, config: dict[str, Any], of: ShapesOf) -> None:
    query, key = (of(each)["kernel"] for each in (layer._query_dense, layer._key_dense))  # noqa: SLF001 - it shows them no other way
    config.update(head_dim=query[2], num_query_heads=query[1], num_key_value_heads=key[1])


def _bidirectional(layer: Any, config: dict[str, Any], _of: ShapesOf) -> None:
    if "backward_layer" not in config:  # Keras copies the forward layer then, and the two may have lost different units
        config["backward_layer"] = import_keras().saving.serialize_keras_object(layer.backward_layer)


SIZES: dict[str, Callable[[Any, dict[str, Any], ShapesOf], None]] = {
    "Dense": _dense,
    "EinsumDense": _einsum_dense,
    "BaseConv": _convolution,
    "BaseConvTranspose": _transposed_convolution,
    "BaseDepthwiseConv": _depthwise,
    "BaseSeparableConv": _separable,
    "Embedding": _embedding,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "LSTMCell": _recurrent_cell,
    "GRUCell": _recurrent_cell,
    "SimpleRNNCell": _recurrent_cell,
    "ConvLSTM": _recurrent_convolution,
    "MultiHeadAttention": _attention,
    "GroupedQueryAttention": _grouped_attention,
    "Bidirectional": _bidirectional,
}
"""How a layer's configuration follows from the shapes of its variables, by the name of its class or of one it inherits from."""
