"""Weights files to .lissom archives and back: pack, unpack, and opening an archive lazily."""

from __future__ import annotations

import json
import mmap
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom import files
from lissom.codec import Quantized, Reader, decode, encode
from lissom.codec.delta import difference, restored
from lissom.codec.dtypes import dtype_named
from lissom.codec.lossy import quantized
from lissom.errors import CorruptArchive, InputRefused, ModelRefused, UsageError

__all__ = ["open", "pack", "unpack"]

Path_ = str | os.PathLike[str]
Array = npt.NDArray[Any]
BASE = "lissom.base"  # metadata: the digest of the file that the archive is a difference to
DELTA, WHOLE = "+", "="  # in such an archive, what each name begins with
FEW = 256  # positions below which lossy packing keeps a tensor exact: it would save nothing


@dataclass(frozen=True)
class Weights:
    """What a weights file holds."""

    tensors: Mapping[str, Array | Quantized]
    network: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def pack(
    source: Path_,
    path: Path_,
    *,
    base: Path_ | None = None,
    quality: float | None = None,
    max_drop: float | None = None,
    data: Any = None,
    network: Any = None,
    task: str | None = None,
    seed: int = 0,
    weights_only: bool = False,
    effort: str = "best",
    threads: int | None = None,
) -> dict[str, Array | Quantized]:
    """Write the weights of ``source`` as an archive, exactly unless ``quality`` or ``max_drop`` is given.

    Args:
        source: a ``.safetensors``, ``.pt``, ``.pth``, ``.onnx`` or ``.lissom`` file.
        path: the archive to write.
        base: a file of the same kinds; tensors that it has too are stored as differences to it.
        quality: signal-to-noise ratio in dB of each float tensor of at least two axes; None keeps every bit.
        max_drop: how much the metric may drop on ``data``, 0.01 for one point: every weight of two axes and more then takes
            levels by what its errors cost, all tensors at one price of a bit, found by bisection. Where
            every price loses more, the weights stay exact.
        data: what to calibrate and to measure on; any data that :func:`lissom.compress` takes, labelled or not.
        network: what runs the weights, where ``source`` does not run itself: ``package.module:callable``, or a module.
        task: ``"classify"`` where unlabelled outputs are classes.
        seed: decides which samples calibrate and which validate.
        weights_only: leave out the graph of an ``.onnx`` file.
        effort: ``"best"`` or ``"fast"``.
        threads: chunks to work on at once; the bytes do not depend on it.

    Returns:
        The tensors as they were stored, by name.

    Raises:
        ModelRefused: the source cannot be read, or holds code.
        UsageError: options that contradict each other.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> folder = Path(tempfile.mkdtemp())
    >>> save_file({"fc.weight": np.eye(64, dtype=np.float32)}, folder / "model.safetensors")
    >>> written = pack(folder / "model.safetensors", folder / "model.lissom")
    >>> sorted(written), (folder / "model.lissom").stat().st_size < 128
    (['fc.weight'], True)
    """
    if sum(option is not None for option in (base, quality, max_drop)) > 1:
        raise UsageError("base, quality and max_drop exclude each other (a difference to a base is exact): give one of them")
    if (max_drop is None) != (data is None):
        raise UsageError("max_drop and data go together: the drop is measured on the data")
    weights = _read(Path(source), graph=not weights_only and base is None)
    tensors, metadata = dict(weights.tensors), dict(weights.metadata)
    if quality is not None:
        tensors = {name: _lossy(name, tensor, quality) for name, tensor in tensors.items()}
    if max_drop is not None:
        tensors = _within(Path(source), tensors, network, data, max_drop, task, seed)
    stored = tensors
    if base is not None:
        stored = _against(tensors, _read(Path(base), graph=False).tensors)
        metadata[BASE] = files.digest(base)
    data = encode(stored, network=weights.network, metadata=metadata, effort=effort, threads=threads)
    files.write_bytes(path, data)
    return tensors


def unpack(archive: Path_, path: Path_, *, base: Path_ | None = None) -> None:
    """Write what an archive holds: its weights as ``.safetensors`` or ``.pt``, or its model as the ``.onnx`` it was.

    Args:
        archive: a ``.lissom`` file.
        path: what to write; its suffix says the kind.
        base: the file that the archive was packed against.

    Raises:
        CorruptArchive: the archive is damaged.
        InputRefused: ``base`` is missing or another file, or the archive has no graph for ``.onnx``.
        UsageError: a suffix that cannot be written.
    """
    target = Path(path)
    if target.suffix not in _WRITERS:
        raise UsageError(f"cannot write {target.name}: unpack writes {', '.join(sorted(_WRITERS))}")
    content = decode(_bytes(Path(archive)))
    tensors, metadata = dict(content.tensors), dict(content.metadata)
    expected = metadata.pop(BASE, None)
    if expected is not None:
        if base is None:
            raise InputRefused(f"{archive} is a difference to another file: give that file with --base")
        if files.digest(base) != expected:
            raise InputRefused(f"{base} is not the file that {archive} was packed against (its bytes differ): find the original")
        tensors = _rebuilt(tensors, _read(Path(base), graph=False).tensors)
    _WRITERS[target.suffix](target, Weights(tensors, content.network, metadata))


def open(path: Path_) -> Reader:  # noqa: A001 - lissom.open, after safetensors.safe_open
    """Open an archive without decoding it: a mapping whose tensors are decoded when asked for.

    The file is mapped into memory, so that a tensor of a large archive costs reading its own chunks only.

    Raises:
        CorruptArchive: the file is no archive, or its directory is damaged.
        InputRefused: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise CorruptArchive(f"{path} is empty")
            return Reader(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), limit=1 << 42)
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror or error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path, *, graph: bool) -> Weights:
    if path.suffix not in _READERS:
        raise ModelRefused(f"cannot read weights from {path}: give one of {', '.join(sorted(_READERS))}")
    return _READERS[path.suffix](path, graph)


def _read_safetensors(path: Path, _: bool) -> Weights:
    from safetensors import SafetensorError, deserialize

    data = _bytes(path)
    try:
        found = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ModelRefused(f"{path} is not a safetensors file ({error}): get it again") from error
    tensors = {}
    for name, tensor in found:
        kind = _SAFETENSORS.get(tensor["dtype"])
        if kind is None:
            raise ModelRefused(f"{path}: {name} has the dtype {tensor['dtype']}, which an archive cannot hold")
        tensors[name] = np.frombuffer(tensor["data"], dtype_named(kind)).reshape(tensor["shape"])
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Weights(dict(sorted(tensors.items(), key=lambda item: _natural(item[0]))), None, header.get("__metadata__") or {})


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
        model = onnx.load_model_from_string(_bytes(path))
        onnx.load_external_data_for_model(model, str(path.parent))
    except (DecodeError, OSError, onnx.checker.ValidationError) as error:
        raise ModelRefused(f"{path} is not an ONNX model that can be read ({error}): export it again") from error
    network, tensors = skeleton.split(model)
    return Weights(tensors, network if graph else None)


def _read_lissom(path: Path, graph: bool) -> Weights:
    content = decode(_bytes(path))
    if BASE in content.metadata:
        raise ModelRefused(f"{path} is a difference to another file: unpack it with its base first")
    return Weights(content.tensors, content.network if graph else None, content.metadata)


def _lossy(name: str, tensor: Array | Quantized, quality: float) -> Array | Quantized:
    if isinstance(tensor, Quantized) or tensor.dtype.name not in ("float32", "float16", "bfloat16"):
        return tensor
    if tensor.ndim < 2 or tensor.size < FEW:
        return tensor
    return quantized(name, tensor, quality)


def _within(
    source: Path, tensors: dict[str, Array | Quantized], network: Any, data: Any, max_drop: float, task: str | None, seed: int
) -> dict[str, Array | Quantized]:
    """The tensors with the levels that keep the drop within the limit, wherever the network holds the same values."""
    from lissom.data import load_data
    from lissom.networks import open_network
    from lissom.slope import Priced, within_drop

    runs = open_network(source, data=data) if network is None else open_network(network, weights=source, data=data)
    priced = Priced(runs, load_data(data, runs, seed=seed, task=task))
    levels = within_drop(priced, max_drop)
    values = dict(runs.module.named_parameters())
    known = {_same(values[name].detach().cpu().numpy()): tensor for name, tensor in levels.items()}
    return {
        name: tensor if isinstance(tensor, Quantized) else known.get(_same(tensor), tensor) for name, tensor in tensors.items()
    }


def _same(array: Array) -> tuple[Any, ...]:
    """What tells arrays apart by their values, whatever they are called."""
    return array.shape, array.dtype.name, hash(array.tobytes())


def _against(tensors: Mapping[str, Array | Quantized], base: Mapping[str, Array | Quantized]) -> dict[str, Array | Quantized]:
    stored: dict[str, Array | Quantized] = {}
    for name, tensor in tensors.items():
        before = base.get(name)
        same = (
            isinstance(tensor, np.ndarray)
            and isinstance(before, np.ndarray)
            and (before.dtype, before.shape) == (tensor.dtype, tensor.shape)
        )
        if same:
            stored[DELTA + name] = difference(np.asarray(tensor), np.asarray(before))
        else:
            stored[WHOLE + name] = tensor
    return stored


def _rebuilt(stored: Mapping[str, Array | Quantized], base: Mapping[str, Array | Quantized]) -> dict[str, Array | Quantized]:
    tensors: dict[str, Array | Quantized] = {}
    for marked, value in stored.items():
        name = marked[1:]
        if not marked.startswith(DELTA):
            tensors[name] = value
            continue
        before = base.get(name)
        if not isinstance(value, np.ndarray) or not isinstance(before, np.ndarray) or before.shape != value.shape:
            raise CorruptArchive(f"the archive has a difference to {name!r}, and the base has no such tensor")
        tensors[name] = restored(value, before)
    return tensors


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

    if weights.network is None:
        raise InputRefused(f"the archive has no graph to write as {path.name}: unpack it to a .safetensors file")
    files.write_bytes(path, skeleton.restore(weights.network, weights.tensors))


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
    ".lissom": _read_lissom,
}
_WRITERS: dict[str, Callable[[Path, Weights], None]] = {
    ".safetensors": _write_safetensors,
    ".pt": _write_torch,
    ".pth": _write_torch,
    ".onnx": _write_onnx,
}
