"""The way back: an edited network as a ``.keras`` file that plain Keras loads, on any backend."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from lissom import edits
from lissom.errors import DeployFailed
from lissom.network import Network
from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.module import KerasModule

__all__ = ["keras_bytes", "keras_model"]

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of everything in the file: the same network gives the same bytes."""

SMALLEST_PACKED = 256
"""Bytes of a tensor from which compressing it by itself pays for its header."""


def keras_model(network: Network) -> Any:
    """A Keras model of its own with the network's layers, sizes and values; uncompiled.

    Args:
        network: Came in by the Keras door; left as it is.

    Raises:
        DeployFailed: it did not come from Keras, or Keras has no configuration for what became of it.
    """
    if not isinstance(network.module, KerasModule):
        raise DeployFailed(f"a .keras file needs a network that came from Keras; this one is a {network.source.kind}")
    module: Any = edits.bake(edits.copy_module(network.module))
    try:
        model, places = module.standalone()
    except ValueError as error:
        raise DeployFailed(f"the network cannot be written as .keras: {error}; model.onnx and model.lissom hold it") from error
    with torch.no_grad():
        for place in places:
            owner = module.get_submodule(place.path)
            for name, variable in place.variables.items():
                if isinstance(tensor := getattr(owner, name, None), torch.Tensor) and tensor.is_floating_point():
                    variable.assign(tensor.detach().cpu())
    return model


def keras_bytes(network: Network) -> bytes:
    """The ``.keras`` file of a network: plain Keras 3 loads it, with no lissom installed.

    Its tensors are compressed inside the file, so zeros and values from a small table cost few bytes; Keras unpacks them
    as it reads. Weights on a grid stand in it as the float values that the grid gives: a ``.keras`` file has no integers.

    Args:
        network: Came in by the Keras door; left as it is.

    Raises:
        DeployFailed: see :func:`keras_model`.
    """
    model = keras_model(network)
    with tempfile.TemporaryDirectory(prefix="lissom-") as folder:
        file = Path(folder) / "model.keras"
        import_keras().saving.save_model(model, file)
        return _packed(file.read_bytes())


def _packed(plain: bytes) -> bytes:
    """The same archive with every part compressed, and without the time at which it was written."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as archive, zipfile.ZipFile(made, "w") as fresh:
        for entry in archive.infolist():
            content = archive.read(entry)
            if entry.filename == "metadata.json":
                content = json.dumps({**json.loads(content), "date_saved": "1980-01-01@00:00:00"}).encode()
            elif entry.filename.endswith(".h5"):
                content = _packed_tensors(content)
            fresh.writestr(zipfile.ZipInfo(entry.filename, EPOCH), content, zipfile.ZIP_DEFLATED, 9)
    return made.getvalue()


def _packed_tensors(plain: bytes) -> bytes:
    """The same HDF5 file with compressed tensors, their bytes sorted by significance first."""
    import h5py

    made = io.BytesIO()
    with h5py.File(io.BytesIO(plain), "r") as source, h5py.File(made, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if item.nbytes >= SMALLEST_PACKED else {}
                fresh = target.create_dataset(name, data=item[()], **packed)
            else:
                fresh = target.require_group(name)
            fresh.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    return made.getvalue()
