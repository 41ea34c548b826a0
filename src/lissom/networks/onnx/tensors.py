"""An ONNX TensorProto as a torch tensor, whichever way it stores its data: raw bytes, typed fields, an external file.

Nothing is allocated before the stored bytes are known to be there, so a header cannot ask for memory. External data
is mapped copy-on-write: a large file is held once, and only what is edited is ever copied.
"""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from onnx import SparseTensorProto, TensorProto, numpy_helper
from torch import Tensor

from lissom.errors import ModelRefused
from lissom.networks.onnx.operators.dtypes import DTYPES

__all__ = ["LARGEST_CONSTANT", "external_path", "read_sparse", "read_tensor"]

LARGEST_CONSTANT = 1 << 26
"""Elements; the reader makes no larger tensor out of numbers in the file."""

_PACKED: dict[int, torch.dtype] = {TensorProto.INT4: torch.int8, TensorProto.UINT4: torch.uint8}
"""Types of less than a byte, held one to a byte."""


def read_tensor(proto: TensorProto, folder: Path | None = None) -> Tensor:
    """The tensor that ``proto`` describes, writable.

    Args:
        proto: A tensor of floats, integers or booleans.
        folder: Where external data lies; None refuses external data.

    Raises:
        ModelRefused: the data is missing, of another length than the shape needs, or outside the folder.
    """
    name = proto.name or "(no name)"
    dtype = DTYPES.get(proto.data_type) or _PACKED.get(proto.data_type)
    if dtype is None:
        raise ModelRefused(f"tensor {name} has element type {_type_name(proto)}: lissom reads floats, integers and booleans")
    if any(length < 0 for length in proto.dims):
        raise ModelRefused(f"tensor {name} has a negative length in its shape {list(proto.dims)}")
    if proto.data_location == TensorProto.EXTERNAL:
        return _external(proto, dtype, folder)
    if proto.data_type in _PACKED:
        return _unpacked(proto, dtype)
    if proto.HasField("raw_data"):
        raw = proto.raw_data
        _check_length(name, list(proto.dims), dtype, len(raw))
        flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return flat.reshape(list(proto.dims))
    return _typed_fields(proto, dtype)


def read_sparse(proto: SparseTensorProto) -> Tensor:
    """A sparse initialiser as a dense tensor.

    Raises:
        ModelRefused: the dense tensor would be absurdly large, or a position lies outside it.
    """
    values, positions = read_tensor(proto.values), read_tensor(proto.indices).to(torch.int64)
    shape, name = list(proto.dims), proto.values.name
    count = math.prod(shape)
    if count > LARGEST_CONSTANT or any(length < 0 for length in shape):
        raise ModelRefused(f"sparse tensor {name} would have shape {shape}: lissom expands up to {LARGEST_CONSTANT:,} elements")
    if positions.ndim == 2:
        strides = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))])
        positions = (positions * strides).sum(1)
    if positions.numel() != values.numel() or (
        positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < count
    ):
        raise ModelRefused(f"sparse tensor {name} puts values outside its shape {shape}")
    return torch.zeros(count, dtype=values.dtype).scatter(0, positions, values.reshape(-1)).reshape(shape)


def external_path(location: str, folder: Path, name: str) -> Path:
    """The file of external data, which must lie in the model's own folder.

    Raises:
        ModelRefused: the path is absolute, leaves the folder (by ``..`` or by a link), or is not there.
    """
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise ModelRefused(f"tensor {name} keeps its data in {location!r}, outside the model's folder: lissom does not follow it")
    if not path.is_file():
        raise ModelRefused(f"tensor {name} keeps its data in {location!r}, which is not beside the model: put that file back")
    return path


def _external(proto: TensorProto, dtype: torch.dtype, folder: Path | None) -> Tensor:
    entries = {entry.key: entry.value for entry in proto.external_data}
    if folder is None:
        raise ModelRefused(f"tensor {proto.name} keeps its data in another file: give the model's path and not its contents")
    path = external_path(entries.get("location", ""), folder, proto.name)
    needed = math.prod(proto.dims) * dtype.itemsize
    try:
        offset = int(entries.get("offset", "0") or 0)
        length = int(entries.get("length", "") or needed)
    except ValueError as error:
        raise ModelRefused(f"tensor {proto.name} has an external offset or length that is no number: {entries}") from error
    _check_length(proto.name, list(proto.dims), dtype, length)
    if offset < 0 or offset + length > path.stat().st_size:
        raise ModelRefused(
            f"tensor {proto.name} lies at {offset} + {length} bytes of {path.name}, which is shorter: get it whole"
        )
    if proto.data_type in _PACKED:
        raise ModelRefused(f"tensor {proto.name} is {_type_name(proto)} in an external file: store it in the model itself")
    if not needed:
        return torch.empty(list(proto.dims), dtype=dtype)
    mapped = np.memmap(path, dtype=np.uint8, mode="c", offset=offset, shape=(length,))
    flat = torch.from_numpy(mapped)
    if offset % dtype.itemsize:  # torch cannot view bytes that are not aligned
        flat = flat.clone()
    return flat.view(dtype).reshape(list(proto.dims))


def _typed_fields(proto: TensorProto, dtype: torch.dtype) -> Tensor:
    stored = max(
        len(proto.float_data), len(proto.int32_data), len(proto.int64_data), len(proto.double_data), len(proto.uint64_data)
    )
    _check_length(proto.name, list(proto.dims), dtype, stored * dtype.itemsize)
    array = numpy_helper.to_array(proto)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _unpacked(proto: TensorProto, dtype: torch.dtype) -> Tensor:
    count = math.prod(proto.dims)
    stored = len(proto.raw_data) or len(proto.int32_data)
    if stored != -(-count // 2):
        raise ModelRefused(f"tensor {proto.name} of shape {list(proto.dims)} has {stored} bytes of 4-bit values")
    return torch.from_numpy(numpy_helper.to_array(proto).astype(np.int8 if dtype == torch.int8 else np.uint8))


def _check_length(name: str, shape: list[int], dtype: torch.dtype, stored: int) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if needed != stored:
        raise ModelRefused(f"tensor {name} has shape {shape}, which needs {needed:,} bytes, and the file holds {stored:,}")


def _type_name(proto: TensorProto) -> str:
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(proto.data_type) if proto.data_type in known else str(proto.data_type)
