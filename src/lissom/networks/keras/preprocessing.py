"""Preprocessing layers that compute only under TensorFlow: they are left in front, and the network begins behind them."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from lissom.errors import ModelRefused

__all__ = ["cut_front"]

TENSORFLOW_ONLY = {"TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing", "FeatureSpace"}


def cut_front(file: Path, config: dict[str, Any]) -> tuple[bytes | None, tuple[str, ...]]:
    """The file without the TensorFlow-only layers at its front, and a note that names them.

    Args:
        file: A ``.keras`` archive.
        config: Its configuration.

    Returns:
        The archive's bytes without them, and the note; None and nothing where there are none.

    Raises:
        ModelRefused: such a layer stands where it cannot be cut off.
    """
    settings = config.get("config")
    layers = settings.get("layers") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(layers, list):
        return None, ()
    found = [layer for layer in layers if isinstance(layer, dict) and layer.get("class_name") in TENSORFLOW_ONLY]
    if not found:
        return None, ()
    names = [_name(layer) for layer in found]
    if config.get("class_name") == "Sequential":
        settings["layers"] = _cut_sequence(layers, found, file)
    else:
        _cut_graph(settings, found, file)
    for place in (config, settings):
        for key in ("build_config", "build_input_shape"):
            place.pop(key, None)
    kinds = sorted({str(layer["class_name"]) for layer in found})
    note = (
        f"{', '.join(names)} ({', '.join(kinds)}) computes only under TensorFlow: it was left in front, and the network takes "
        "what it gives"
    )
    return _with_config(file, config), (note,)


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _cut_sequence(layers: list[Any], found: list[Any], file: Path) -> list[Any]:
    last = max(layers.index(layer) for layer in found)
    front = [layer for layer in layers[:last] if layer not in found and layer.get("class_name") != "InputLayer"]
    if front:
        raise _in_the_middle(found[-1], file)
    return [_input_after(layers[last], _name(layers[last]), file), *layers[last + 1 :]]


def _cut_graph(settings: dict[str, Any], found: list[Any], file: Path) -> None:
    """Each such layer that reads an input becomes an input of its own; inputs that nothing reads any more go."""
    layers = {_name(layer): layer for layer in settings["layers"]}
    for layer in found:
        sources = _sources(layer)
        if not sources or any(layers[name].get("class_name") not in {"InputLayer", *TENSORFLOW_ONLY} for name in sources):
            raise _in_the_middle(layer, file)
        layers[_name(layer)] = {**_input_after(layer, _name(layer), file), "name": _name(layer), "inbound_nodes": []}
    read = {name for layer in layers.values() for name in _sources(layer)}
    kept = [
        layer
        for name, layer in layers.items()
        if layer.get("class_name") != "InputLayer" or name in read or any(name == _name(each) for each in found)
    ]
    # A lookup that only fed another lookup is now an input that nothing reads.
    fed = {name for layer in found for name in _sources(layer)}
    kept = [layer for layer in kept if not (_name(layer) in fed and _name(layer) not in read)]
    settings["layers"] = kept
    settings["input_layers"] = [[_name(layer), 0, 0] for layer in kept if layer.get("class_name") == "InputLayer"]


def _sources(layer: dict[str, Any]) -> list[str]:
    """Names of the layers whose outputs a layer reads."""
    names: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            history = value.get("config", {}).get("keras_history") if isinstance(value.get("config"), dict) else None
            if history:
                names.append(str(history[0]))
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(layer.get("inbound_nodes", []))
    return names


def _input_after(layer: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """An input that takes what the layer gave."""
    config = layer["config"]
    mode = config.get("output_mode", "int")
    if mode != "int":
        raise ModelRefused(
            f"{file}: {name} computes only under TensorFlow and gives {mode} vectors, whose length the file does not state: cut "
            "the model behind it,  keras.Model(layer.output, model.output),  and save that"
        )
    shape = [None, config.get("output_sequence_length")] if layer["class_name"] == "TextVectorization" else _shape(layer)
    return {
        "module": "keras.layers",
        "class_name": "InputLayer",
        "registered_name": None,
        "config": {"batch_shape": shape, "dtype": "int64", "sparse": False, "name": name},
    }


def _shape(layer: dict[str, Any]) -> list[int | None]:
    shape = (layer.get("build_config") or {}).get("input_shape")
    return list(shape) if isinstance(shape, list) else [None, None]


def _in_the_middle(layer: dict[str, Any], file: Path) -> ModelRefused:
    return ModelRefused(
        f"{file}: {_name(layer)} ({layer['class_name']}) computes only under TensorFlow and stands behind other layers: save "
        "the part of the model behind it on its own"
    )


def _with_config(file: Path, config: dict[str, Any]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(made, "w") as fresh:
        for entry in archive.infolist():
            if entry.filename.startswith("assets/"):  # vocabularies of the layers that are gone
                continue
            fresh.writestr(entry.filename, json.dumps(config) if entry.filename == "config.json" else archive.read(entry))
    return made.getvalue()
