"""The archive: tensors to bytes and back, chunk by chunk, checked before anything is believed."""

from __future__ import annotations

import io
import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lissom.codec.arrays import code_array
from lissom.codec.directory import Directory, Entry, Part, plan
from lissom.codec.dtypes import dtype_named, number_of
from lissom.codec.envelope import HEAD, SEALED, opened, reversed_number, with_checksum
from lissom.codec.quantized import checked, code_decoding, from_symbols, to_symbols
from lissom.codec.stream import EFFORTS, Stream
from lissom.codec.tensors import Quantized, Table, Uniform
from lissom.errors import CorruptArchive, InputRefused, UsageError

__all__ = ["Archive", "Reader", "decode", "encode", "write"]

Tensor = npt.NDArray[Any] | Quantized
SHARED, ALIGNED = 1 << 22, 64  # bytes of a tensor below which it shares a block, and where it begins there
LIMIT = 1 << 33  # decoded bytes that decode() allows unless told otherwise


@dataclass(frozen=True)
class Archive:
    """What an archive holds.

    Args:
        tensors: by name, in the order of encoding: arrays as they were, or :class:`Quantized`.
        network: the network section, or None.
        metadata: the user's own strings.
    """

    tensors: dict[str, Tensor]
    network: bytes | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def encode(
    tensors: Mapping[str, Tensor],
    *,
    network: bytes | None = None,
    metadata: Mapping[str, str] | None = None,
    effort: str = "best",
    threads: int | None = None,
) -> bytes:
    """The archive's bytes; they depend on the tensors and the effort, never on the machine or ``threads``.

    Args:
        tensors: arrays of any dtype in :data:`lissom.codec.dtypes.DTYPES` (kept bit by bit), or
            :class:`Quantized` (levels and decoding kept exactly).
        network: bytes of the network section; None leaves it out.
        metadata: strings to carry along.
        effort: ``"best"`` (smallest) or ``"fast"``.
        threads: how many chunks to work on at once; None for as many as the process may use.

    Raises:
        InputRefused: a dtype that the archive cannot hold, levels that do not fit their table.
        UsageError: an unknown effort.

    >>> weights = {"fc.weight": np.zeros((10, 500), np.float32), "fc.bias": np.arange(10, dtype=np.float32)}
    >>> data = encode(weights)
    >>> len(data) < 60, (decode(data).tensors["fc.bias"] == weights["fc.bias"]).all()
    (True, np.True_)
    """
    file = io.BytesIO()
    write(file, tensors, network=network, metadata=metadata, effort=effort, threads=threads)
    return file.getvalue()


def write(
    file: IO[bytes],
    tensors: Mapping[str, Tensor],
    *,
    network: bytes | None = None,
    metadata: Mapping[str, str] | None = None,
    effort: str = "best",
    threads: int | None = None,
) -> None:
    """Write what :func:`encode` gives; each block leaves memory soon after it is coded, however large the tensors are.

    Args:
        file: where the bytes go, from its first to its last; it need not be able to seek.
        tensors: as for :func:`encode`; arrays that are mapped from a file are read chunk by chunk.
        network: as for :func:`encode`.
        metadata: as for :func:`encode`.
        effort: as for :func:`encode`.
        threads: as for :func:`encode`.

    Raises:
        InputRefused: as :func:`encode`, before anything is written where the tensors' dtypes or levels are the reason.
        UsageError: an unknown effort.
    """
    if effort not in EFFORTS:
        raise UsageError(f"effort={effort!r}: choose one of {', '.join(map(repr, EFFORTS))}")
    prepared = {name: _prepared(name, tensor) for name, tensor in tensors.items()}
    directory = Directory(effort, [_entry(name, tensor) for name, tensor in prepared.items()], dict(metadata or {}))
    directory.network = None if network is None else len(network)
    values: list[tuple[Quantized | None, npt.NDArray[Any]]] = [
        (tensor, to_symbols(tensor)) if isinstance(tensor, Quantized) else (None, tensor) for tensor in prepared.values()
    ]
    first = [] if network is None else [min(network, _encode_bytes(network), key=len)]
    chunks = _parallel(lambda chunk: _encode_chunk(chunk, directory, values), plan(directory.entries), threads)
    held = b""
    file.write(HEAD)
    for block in chain(first, chunks):
        if directory.lengths:  # an archive of one small block has no checksum after it: the last one waits
            file.write(with_checksum(held))
        held = block
        directory.lengths.append(len(block))
    sealed = len(directory.lengths) <= 1 and len(held) < SEALED
    body = held if sealed else with_checksum(held)
    coded = directory.to_bytes()
    end = reversed_number(len(coded) << 1 | sealed)
    checksum = zlib.crc32((HEAD + body if sealed else HEAD) + coded + end)
    file.write(body + coded + checksum.to_bytes(4, "little") + end)


def decode(data: bytes, *, threads: int | None = None, limit: int = LIMIT) -> Archive:
    """The tensors, network section and metadata of an archive.

    Args:
        data: the whole archive.
        threads: how many chunks to work on at once; None for as many as the process may use.
        limit: the most bytes that the decoded tensors may take.

    Raises:
        CorruptArchive: the bytes are not an archive, or were truncated or altered, or declare more than ``limit``.
    """
    reader = Reader(data, limit=limit)
    return Archive(reader.tensors(threads=threads), reader.network(), reader.metadata)


class Reader:
    """An archive whose directory has been read, and whose tensors are decoded one by one when asked for.

    Raises:
        CorruptArchive: as :func:`decode`.

    >>> reader = Reader(encode({"a": np.arange(3), "b": np.ones(2)}))
    >>> list(reader), reader["a"]
    (['a', 'b'], array([0, 1, 2]))
    """

    def __init__(self, data: bytes | memoryview, *, limit: int = LIMIT) -> None:
        self._data = memoryview(data)
        self.directory, self._blocks = opened(self._data, limit)
        self.metadata = self.directory.metadata
        self.entries = {entry.name: entry for entry in self.directory.entries}
        self._index = {name: index for index, name in enumerate(self.entries)}
        self._chunks = plan(self.directory.entries)
        self._where: dict[int, list[int]] = {}
        for number, chunk in enumerate(self._chunks):
            for part in chunk:
                self._where.setdefault(part.index, []).append(number)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Tensor:
        index = self._index[name]
        return self._decoded(self._where[index], {index}, 1)[index]

    def tensors(self, *, threads: int | None = None) -> dict[str, Tensor]:
        """Every tensor by name."""
        indices = set(range(len(self.entries)))
        decoded = self._decoded(list(range(len(self._chunks))), indices, threads)
        return {name: decoded[index] for index, name in enumerate(self.entries)}

    def network(self) -> bytes | None:
        """The network section, or None."""
        if self.directory.network is None:
            return None
        payload, length = bytes(self._payload(0)), self.directory.network
        return payload if len(payload) == length else Stream(payload, "best").text(None, length)

    def _payload(self, block: int) -> memoryview:
        start, stop, checksum = self._blocks[block]
        payload = self._data[start:stop]
        if checksum is not None and zlib.crc32(payload) != checksum:
            raise CorruptArchive(f"block {block} does not match its checksum: the file was altered")
        return payload

    def _decoded(self, chunks: list[int], wanted: set[int], threads: int | None) -> dict[int, Tensor]:
        entries = self.directory.entries
        indices = sorted({part.index for number in chunks for part in self._chunks[number]})
        arrays = _rooms({index: entries[index] for index in indices})
        decodings: dict[int, Table | Uniform] = {}
        trellises: dict[int, int] = {}
        first = int(self.directory.network is not None)

        def work(number: int) -> None:
            payload = self._payload(first + number)
            _decode_chunk(payload, self._chunks[number], self.directory, arrays, decodings, trellises)

        deque(_parallel(work, chunks, threads), maxlen=0)
        return {
            index: from_symbols(
                arrays[index], decodings[index], entry.dtype, entry.kind.startswith("masked"), trellises.get(index, 0)
            )
            if entry.kind != "plain"
            else arrays[index]
            for index, entry in enumerate(entries)
            if index in wanted
        }


def _rooms(entries: Mapping[int, Entry]) -> dict[int, npt.NDArray[Any]]:
    """An array to decode each tensor into; small ones share one block, which the system gives in few large pages."""
    dtypes = {n: dtype_named(entry.dtype) if entry.kind == "plain" else np.dtype(np.int32) for n, entry in entries.items()}
    sizes = {n: math.prod(entry.shape) * dtypes[n].itemsize for n, entry in entries.items()}
    shared = {n: -(-size // ALIGNED) * ALIGNED for n, size in sizes.items() if size < SHARED}
    block, at = np.empty(sum(shared.values()), np.uint8), 0
    rooms = {}
    for n, entry in entries.items():
        if n in shared and len(shared) > 1:
            rooms[n] = block[at : at + sizes[n]].view(dtypes[n]).reshape(entry.shape)
            at += shared[n]
        else:
            rooms[n] = np.empty(entry.shape, dtypes[n])
    return rooms


def _prepared(name: str, tensor: Tensor) -> Tensor:
    if isinstance(tensor, Quantized):
        tensor = checked(name, tensor)
        dtype: Any = np.dtype(dtype_named(tensor.dtype))
    else:
        tensor = np.asarray(tensor)
        tensor = np.ascontiguousarray(tensor).reshape(tensor.shape)
        dtype = tensor.dtype
    try:
        number_of(dtype)
    except KeyError:
        raise InputRefused(f"{name}: the dtype {dtype} has no place in an archive; convert it, for example to float32") from None
    if not isinstance(tensor, Quantized) and not tensor.dtype.isnative:
        tensor = tensor.astype(tensor.dtype.newbyteorder("="))
    return tensor


def _entry(name: str, tensor: Tensor) -> Entry:
    if not isinstance(tensor, Quantized):
        return Entry(name, "plain", tensor.dtype.name, tensor.shape)
    kind = "table" if isinstance(tensor.decoding, Table) else "uniform"
    if tensor.trellis:
        return Entry(name, f"trellis {kind}", tensor.dtype, tensor.shape)
    return Entry(name, kind if tensor.mask is None else f"masked {kind}", tensor.dtype, tensor.shape)


def _piece(array: npt.NDArray[Any], part: Part) -> npt.NDArray[Any]:
    """The part of an array, as a view."""
    if part.flat:
        return array.reshape(-1)[part.start : part.stop]
    return array[part.start : part.stop] if array.ndim else array


def _encode_chunk(chunk: list[Part], directory: Directory, tensors: list[tuple[Quantized | None, npt.NDArray[Any]]]) -> bytes:
    stream = Stream(None, directory.effort)
    for part in chunk:
        tensor, array = tensors[part.index]
        piece = _piece(array, part)
        if tensor is None:
            code_array(stream, piece)
            continue
        if part.start == 0:
            code_decoding(stream, tensor.decoding, tensor.shape, table=isinstance(tensor.decoding, Table))
        if tensor.trellis:
            stream.on_trellis(piece, tensor.trellis)
        else:
            stream.levels(piece)
    return stream.finish()


def _decode_chunk(
    payload: memoryview,
    chunk: list[Part],
    directory: Directory,
    arrays: dict[int, npt.NDArray[Any]],
    decodings: dict[int, Table | Uniform],
    trellises: dict[int, int],
) -> None:
    stream = Stream(payload, directory.effort)
    for part in chunk:
        entry = directory.entries[part.index]
        piece = _piece(arrays[part.index], part)
        if entry.kind == "plain":
            code_array(stream, piece)
            continue
        if part.start == 0:
            decodings[part.index] = code_decoding(stream, None, entry.shape, table=entry.kind.endswith("table"))
        if entry.kind == "trellis uniform":
            states = stream.on_trellis(piece, 0)
            if part.start == 0:
                trellises[part.index] = states
        else:
            stream.levels(piece)


def _encode_bytes(data: bytes) -> bytes:
    stream = Stream(None, "best")
    stream.text(data, len(data))
    return stream.finish()


def _parallel(work: Callable[[Any], Any], items: list[Any], threads: int | None) -> Iterator[Any]:
    """``work`` of every item, in order, on a few threads (the kernels hold no lock); few results wait to be taken."""
    count = min(len(items), threads or len(os.sched_getaffinity(0)))
    if count <= 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count) as pool:
        ahead: deque[Future[Any]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > 2 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
