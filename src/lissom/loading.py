"""load(): what lissom wrote becomes a network again, to run or to train on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from lissom import edits
from lissom.codec import Reader
from lissom.codec.tensors import Quantized
from lissom.deploy import skeleton
from lissom.errors import CorruptArchive, ModelRefused, UsageError
from lissom.graph.structure import apply_structure, structure_from_json, structure_to_json
from lissom.network import Network, Preprocess, Source
from lissom.networks import open_network
from lissom.networks.weights import load_weights
from lissom.runtimes.network import file_network

__all__ = ["STRUCTURE_KEY", "load", "onnx_of_archive", "open_any", "structure_text", "to_run", "to_time"]

STRUCTURE_KEY = "lissom.structure"
"""Under which the metadata of weights holds the structure edits that made their shapes, as JSON."""


def structure_text(network: Network) -> dict[str, str]:
    """The metadata that :func:`load` needs beside the weights: nothing where no shape was changed."""
    return {STRUCTURE_KEY: json.dumps(structure_to_json(network.slices))} if network.slices else {}


def load(path: str | Path, build: Callable[[], nn.Module | Network] | None = None, *, keep_zeros: bool = True) -> Network:
    """The network that a folder of results, an archive or a weights file holds.

    Args:
        path: An ``--out`` folder, a ``.lissom`` archive, or the ``model.safetensors`` of such a folder.
        build: Makes an instance of the user's own class with any weights; its shapes are cut as the compressed network's
            were, and the weights are loaded. What it takes is known from the folder or the archive. None reads the graph
            that the archive brings.
        keep_zeros: Mask the weights that are zero, so that further training leaves them at zero.

    Raises:
        ModelRefused: there is no such file, or its tensors do not fit what ``build`` makes.
        CorruptArchive: the archive is damaged.
        UsageError: weights without a graph, and no ``build``.
    """
    file = _file(Path(path), with_build=build is not None)
    if build is None:
        return open_any(str(file))
    network = _built(build(), Path(path))
    state, structure = _weights(file)
    module = apply_structure(edits.copy_module(network.module), structure)
    load_weights(module, state, str(file))
    if keep_zeros:
        for name, parameter in list(edits.weights(module)):
            if parameter.ndim > 1 and bool((parameter == 0).any()):
                edits.attach(module, name, mask=parameter != 0)
    return Network(
        module,
        network.example_inputs,
        input_names=network.input_names,
        output_names=network.output_names,
        dynamic_axes=network.dynamic_axes,
        preprocess=network.preprocess,
        source=Source("lissom", str(file)),
        slices=structure,
    )


def open_any(model: str, **options: Any) -> Network:
    """Any door: ``.lissom`` by the graph that it brings, everything else by :func:`lissom.networks.open_network`."""
    if not str(model).endswith(".lissom"):
        return open_network(model, **options)
    from lissom.networks.onnx import read_onnx

    network = read_onnx(onnx.load_model_from_string(onnx_of_archive(Path(model))))
    preprocess = options.get("preprocess")
    return network if preprocess is None else _with_preprocess(network, preprocess)


def to_run(model: str, **options: Any) -> Network:
    """The network as its runtime runs it, where ``model`` is a file of a runtime; else as torch does."""
    preprocess = None if options.get("preprocess") is None else _preprocess(options["preprocess"])
    file = Path(model)
    if file.suffix == ".lissom":
        return file_network(onnx_of_archive(file), preprocess=preprocess, name=str(file))
    if file.suffix == ".onnx":
        return file_network(file, preprocess=preprocess)
    return open_network(model, **options)


def to_time(model: str, **options: Any) -> Path | bytes | Network:
    """What a runtime opens, where ``model`` is a file of one; else the network, which torch runs."""
    file = Path(model)
    if file.suffix == ".lissom":
        return onnx_of_archive(file)
    return file if file.suffix == ".onnx" else open_network(model, **options)


def onnx_of_archive(file: Path) -> bytes:
    """The bytes of the ``model.onnx`` that an archive holds.

    Raises:
        ModelRefused: there is no such file.
        UsageError: the archive holds weights only.
        CorruptArchive: it is damaged.
    """
    reader = _reader(file)
    section = reader.network()
    if section is None:
        raise UsageError(f"{file} holds weights and no graph: give  load(path, build=…), or unpack it to .safetensors")
    return skeleton.restore(section, {name: reader[name] for name in reader})


def _reader(file: Path) -> Reader:
    if not file.is_file():
        raise ModelRefused(f"no archive {file}: check the path")
    return Reader(file.read_bytes())


def _file(path: Path, *, with_build: bool) -> Path:
    if path.is_dir():
        return path / ("model.safetensors" if with_build else "model.lissom")
    return path


def _built(made: nn.Module | Network, path: Path) -> Network:
    """The user's own instance, with the inputs and the preprocess that the archive knows, where nobody says better."""
    archive = path / "model.lissom" if path.is_dir() else path
    if isinstance(made, Network) or not archive.is_file() or archive.suffix != ".lissom" or _reader(archive).network() is None:
        return made if isinstance(made, Network) else open_network(made)
    return dataclasses.replace(open_any(str(archive)), module=made)


def _weights(file: Path) -> tuple[dict[str, torch.Tensor], tuple[Any, ...]]:
    """Tensors by name, and the structure edits that belong to them."""
    if file.suffix == ".lissom":
        reader = _reader(file)
        tensors = {name: reader[name] for name in reader}
        state = {name: torch.from_numpy(t.dense() if isinstance(t, Quantized) else t) for name, t in tensors.items()}
        known = reader.metadata
    else:
        from safetensors import SafetensorError, safe_open

        if not file.is_file():
            raise ModelRefused(f"no weights file {file}: check the path")
        try:
            with safe_open(file, framework="pt") as opened:
                state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
                known = opened.metadata() or {}
        except SafetensorError as error:
            raise ModelRefused(f"{file} is not a readable .safetensors file ({error})") from error
    try:
        return state, structure_from_json(json.loads(known.get(STRUCTURE_KEY, "[]")))
    except ValueError as error:
        raise CorruptArchive(f"{file}: its {STRUCTURE_KEY} is not JSON: it was written by another program or altered") from error


def _preprocess(given: Any) -> Preprocess:
    from lissom.networks.preprocess import read_preprocess

    return read_preprocess(given)


def _with_preprocess(network: Network, given: Any) -> Network:
    return dataclasses.replace(network, preprocess=_preprocess(given))
