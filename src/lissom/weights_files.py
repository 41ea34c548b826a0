"""Files of weights: safetensors, torch, ONNX, Keras and .lissom, read to tensors by name and written back."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom import files
from lissom.codec import Quantized, Reader, decode
from lissom.codec.dtypes import dtype_named
from lissom.errors import InputRefused, MissingExtra, ModelRefused, UsageError

__all__ = ["BASE", "WRITERS", "Weights", "holds_no_network", "read_bytes", "read_weights"]

Array = npt.NDArray[Any]
BASE = "lissom.base"  # metadata: the digest of the file that the archive is a difference to
KERAS_WEIGHTS = "model.weights.h5"  # the member of a .keras file that holds them


@dataclass(frozen=True)
class Weights:
    """What a weights file holds."""

    tensors: Mapping[str, Array | Quantized]
    network: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; InputRefused where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror or error}") from error


def holds_no_network(path: Path) -> bool:
    """Whether a file is one of weights alone; an archive's directory says so of itself."""
    if path.suffix == ".lissom" and path.is_file():
        return Reader(read_bytes(path), limit=1 << 42).directory.network is None
    return path.suffix in (".safetensors", ".pt", ".pth")


def read_weights(path: Path, *, graph: bool) -> Weights:
    """The tensors of a file, and where ``graph`` what else a model file holds.

    Raises:
        ModelRefused: no such kind of file, damaged, or one that would run code.
    """
    if path.suffix not in _READERS:
        raise ModelRefused(f"cannot read weights from {path}: give one of {', '.join(sorted(_READERS))}")
    return _READERS[path.suffix](path, graph)


def _read_safetensors(path: Path, _: bool) -> Weights:
    """Tensors that are mapped from the file, so that what takes them chunk by chunk never holds them whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as checked:
            metadata = checked.metadata() or {}
        data = np.memmap(path, np.uint8, "r")
    except SafetensorError as error:
        raise ModelRefused(f"{path} is not a safetensors file ({error}): get it again") from error
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror or error}") from error
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    tensors = {}
    for name, entry in json.loads(data[8:begin].tobytes()).items():
        if name == "__metadata__":
            continue
        kind = _SAFETENSORS.get(entry["dtype"])
        if kind is None:
            raise ModelRefused(f"{path}: {name} has the dtype {entry['dtype']}, which an archive cannot hold")
        start, stop = (begin + offset for offset in entry["data_offsets"])
        array = data[start:stop].view(np.ndarray).view(dtype_named(kind)).reshape(entry["shape"])
        tensors[name] = array if array.flags.aligned else array.copy()
    return Weights(dict(sorted(tensors.items(), key=lambda item: _natural(item[0]))), None, metadata)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 after layer 9, and a weight before its bias, as networks have them."""
    parts = name.split(".")
    parts[-1] = {"weight": " 0", "bias": " 1"}.get(parts[-1], parts[-1])
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read_torch(path: Path, _: bool) -> Weights:
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that it may refuse: it says so itself
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelRefused(
            f"{path} holds more than weights, and reading it would run code: "
            "save its state_dict() with torch.save, or as .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError) as error:
        raise ModelRefused(f"cannot read {path}: {error}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise ModelRefused(f"{path} holds no dictionary of tensors: save the module's state_dict()")
    return Weights({str(name): _from_torch(value) for name, value in tensors.items()})


def _from_torch(tensor: Any) -> Array:
    import torch

    tensor = tensor.detach().cpu().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    dtype = dtype_named("bool" if name == "bool" else name)
    raw = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
    return raw.view(dtype).reshape(tuple(tensor.shape))


def _read_onnx(path: Path, graph: bool) -> Weights:
    import onnx
    from google.protobuf.message import DecodeError

    from lissom.deploy import skeleton

    try:
        model = onnx.load_model_from_string(read_bytes(path))
        onnx.load_external_data_for_model(model, str(path.parent))
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        raise ModelRefused(f"{path} is not an ONNX model that can be read ({error}): export it again") from error
    network, tensors = skeleton.split(model)
    return Weights(tensors, network if graph else None)


def _read_keras(path: Path, graph: bool) -> Weights:
    """Weights by their path in the HDF5 file; what else there is, with zeros in their place."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelRefused(f"{path} is not a .keras file ({error}): save it again") from error
    if KERAS_WEIGHTS not in members:
        raise ModelRefused(f"{path} holds no {KERAS_WEIGHTS}: save it with Keras 3")
    blank = bytearray(members[KERAS_WEIGHTS])
    tensors = {}
    for name, offset, array in _datasets(members[KERAS_WEIGHTS]):
        tensors[name] = array
        blank[offset : offset + array.nbytes] = bytes(array.nbytes)
    return Weights(tensors, _zipped({**members, KERAS_WEIGHTS: bytes(blank)}) if graph else None)


def _datasets(data: bytes) -> Iterator[tuple[str, int, Array]]:
    """Each array of an HDF5 file that lies in one piece: its path, where its bytes begin, and its values."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", extra="keras", purpose="reading a .keras file") from error
    found: list[tuple[str, int, Array]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.size and item.dtype.kind in "fiub" and item.id.get_offset() is not None:
            found.append((name, item.id.get_offset(), np.asarray(item[()])))

    with h5py.File(io.BytesIO(data), "r") as file:
        file.visititems(visit)
    yield from found


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """A .keras file, the same bytes for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def _read_lissom(path: Path, graph: bool) -> Weights:
    content = decode(read_bytes(path))
    if BASE in content.metadata:
        raise ModelRefused(f"{path} is a difference to another file: unpack it with its base first")
    return Weights(content.tensors, content.network if graph else None, content.metadata)


def _dense(tensors: Mapping[str, Array | Quantized]) -> dict[str, Array]:
    return {name: np.asarray(value.dense() if isinstance(value, Quantized) else value) for name, value in tensors.items()}


def _write_safetensors(path: Path, weights: Weights) -> None:
    names = {kind: name for name, kind in _SAFETENSORS.items()}
    arrays = _dense(weights.tensors)
    header: dict[str, Any] = {"__metadata__": weights.metadata} if weights.metadata else {}
    at = 0
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # every tensor starts aligned
    for name in order:
        array = arrays[name]
        if array.dtype.name not in names:
            raise UsageError(f"{name} has the dtype {array.dtype}, which a safetensors file cannot hold")
        offsets = [at, at := at + array.nbytes]
        header[name] = {"dtype": names[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with files.atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            file.write(arrays[name].tobytes())


def _write_torch(path: Path, weights: Weights) -> None:
    import torch

    tensors = {}
    for name, array in _dense(weights.tensors).items():
        dtype = getattr(torch, array.dtype.name)
        tensor = torch.empty(array.shape, dtype=dtype)
        if array.size:
            tensor.view(-1).view(torch.uint8).copy_(torch.frombuffer(bytearray(array.tobytes()), dtype=torch.uint8))
        tensors[name] = tensor
    with files.atomic_file(path) as file:
        torch.save(tensors, file)


def _write_onnx(path: Path, weights: Weights) -> None:
    from lissom.deploy import skeleton

    if weights.network is None or weights.network.startswith(b"PK"):
        raise InputRefused(f"the archive has no graph to write as {path.name}: unpack it to a .safetensors file")
    files.write_bytes(path, skeleton.restore(weights.network, weights.tensors))


def _write_keras(path: Path, weights: Weights) -> None:
    if weights.network is None or not weights.network.startswith(b"PK"):
        raise InputRefused(f"the archive holds no Keras model to write as {path.name}: unpack it to a .safetensors file")
    with zipfile.ZipFile(io.BytesIO(weights.network)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    filled, arrays = bytearray(members[KERAS_WEIGHTS]), _dense(weights.tensors)
    for name, offset, array in _datasets(members[KERAS_WEIGHTS]):
        filled[offset : offset + array.nbytes] = arrays[name].astype(array.dtype, copy=False).tobytes()
    files.write_bytes(path, _zipped({**members, KERAS_WEIGHTS: bytes(filled)}))


_SAFETENSORS = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "I8": "int8", "U8": "uint8", "I16": "int16",
    "U16": "uint16", "I32": "int32", "U32": "uint32", "I64": "int64", "U64": "uint64", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip

_READERS: dict[str, Callable[[Path, bool], Weights]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".onnx": _read_onnx,
    ".keras": _read_keras,
    ".lissom": _read_lissom,
}
WRITERS: dict[str, Callable[[Path, Weights], None]] = {
    ".safetensors": _write_safetensors,
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".onnx": _write_onnx,
    ".keras": _write_keras,
}
