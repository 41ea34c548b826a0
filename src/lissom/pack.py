"""Weights files to .lissom archives and back: pack, unpack, and opening an archive lazily."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom import files
from lissom.codec import Quantized, Reader, decode, write
from lissom.codec.delta import difference, restored
from lissom.codec.lossy import SIDE_BITS, SIDE_FEW, quantized, rounded
from lissom.errors import CorruptArchive, InputRefused, UsageError
from lissom.weights_files import BASE, WRITERS, Weights, read_bytes, read_weights

__all__ = ["open", "pack", "unpack"]

Path_ = str | os.PathLike[str]
Array = npt.NDArray[Any]
DELTA, WHOLE = "+", "="  # in such an archive, what each name begins with
FEW = 256  # positions below which lossy packing keeps a weight exact: it would save nothing


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
        source: a ``.safetensors``, ``.pt``, ``.pth``, ``.onnx``, ``.keras`` or ``.lissom`` file.
        path: the archive to write.
        base: a file of the same kinds; tensors that it has too are stored as differences to it.
        quality: signal-to-noise ratio in dB of each float tensor of at least two axes; biases and normalisations keep eight bits
            of each mantissa, or as many as that ratio asks for. None keeps every bit.
        max_drop: how much the metric may drop on ``data``, 0.01 for one point: every weight of two axes and more then takes
            levels by what its errors cost, all tensors at one price of a bit, found by bisection; biases and normalisations are
            trained on the calibration split to make up for it, and keep eight bits of each mantissa. Where
            every price loses more, all stays exact.
        data: what to calibrate and to measure on; any data that :func:`lissom.compress` takes, labelled or not.
        network: what runs the weights, where ``source`` does not run itself: ``package.module:callable``, or a module.
        task: ``"classify"`` where unlabelled outputs are classes.
        seed: decides which samples calibrate and which validate.
        weights_only: leave out the graph of an ``.onnx`` or ``.keras`` file.
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
    weights = read_weights(Path(source), graph=not weights_only and base is None)
    tensors, metadata = dict(weights.tensors), dict(weights.metadata)
    if quality is not None:
        tensors = {name: _lossy(name, tensor, quality) for name, tensor in tensors.items()}
    if max_drop is not None:
        tensors = _within(Path(source), tensors, network, data, max_drop, task, seed)
    stored = tensors
    if base is not None:
        stored = _against(tensors, read_weights(Path(base), graph=False).tensors)
        metadata[BASE] = files.digest(base)
    with files.atomic_file(path) as file:
        write(file, stored, network=weights.network, metadata=metadata, effort=effort, threads=threads)
    return tensors


def unpack(archive: Path_, path: Path_, *, base: Path_ | None = None) -> None:
    """Write what an archive holds: its weights as ``.safetensors`` or ``.pt``, or its ``.onnx`` or ``.keras`` model.

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
    if target.suffix not in WRITERS:
        raise UsageError(f"cannot write {target.name}: unpack writes {', '.join(sorted(WRITERS))}")
    content = decode(read_bytes(Path(archive)))
    tensors, metadata = dict(content.tensors), dict(content.metadata)
    expected = metadata.pop(BASE, None)
    if expected is not None:
        if base is None:
            raise InputRefused(f"{archive} is a difference to another file: give that file with --base")
        if files.digest(base) != expected:
            raise InputRefused(f"{base} is not the file that {archive} was packed against (its bytes differ): find the original")
        tensors = _rebuilt(tensors, read_weights(Path(base), graph=False).tensors)
    WRITERS[target.suffix](target, Weights(tensors, content.network, metadata))


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


def _lossy(name: str, tensor: Array | Quantized, quality: float) -> Array | Quantized:
    if isinstance(tensor, Quantized) or tensor.dtype.name not in ("float32", "float16", "bfloat16"):
        return tensor
    if tensor.ndim == 1 and tensor.size >= SIDE_FEW:
        return rounded(name, tensor, max(SIDE_BITS, min(round(quality / 6), 22)))
    return quantized(name, tensor, quality) if tensor.ndim > 1 and tensor.size >= FEW else tensor


def _within(
    source: Path, tensors: dict[str, Array | Quantized], network: Any, data: Any, max_drop: float, task: str | None, seed: int
) -> dict[str, Array | Quantized]:
    """The tensors with the levels that keep the drop within the limit, wherever the network holds the same values."""
    from lissom.data import load_data
    from lissom.networks import open_network
    from lissom.slope import Priced, within_drop

    runs = open_network(source, data=data) if network is None else open_network(network, weights=source, data=data)
    found = within_drop(Priced(runs, load_data(data, runs, seed=seed, task=task)), max_drop)
    values = {name: value.detach().cpu().numpy() for name, value in runs.module.state_dict(keep_vars=True).items()}
    changed: dict[Any, list[Array | Quantized]] = {}
    for name, value in values.items():
        changed.setdefault(_same(value), []).append(found.get(name, value))

    def stored(name: str, tensor: Array | Quantized) -> Array | Quantized:
        if isinstance(tensor, Quantized):
            return tensor
        if name in values and _same(values[name]) == _same(tensor):
            return found.get(name, tensor)
        alike = changed.get(_same(tensor), [])  # a file may call them otherwise: then their values must tell them apart
        return alike[0] if len(alike) == 1 else tensor

    return {name: stored(name, tensor) for name, tensor in tensors.items()}


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
