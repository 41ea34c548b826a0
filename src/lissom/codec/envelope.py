"""What encloses an archive's blocks: magic, version, checksums, and the trailer that says where the directory begins."""

from __future__ import annotations

import zlib
from math import prod

from lissom.codec.directory import Directory, plan
from lissom.codec.dtypes import dtype_named
from lissom.errors import CorruptArchive

__all__ = ["HEAD", "MAGIC", "SEALED", "opened", "reversed_number", "with_checksum"]

MAGIC = b"\x8flsm"
VERSION = 1
SEALED = 1 << 16  # an archive of one block below this many bytes has one checksum over everything
HEAD = MAGIC + bytes([VERSION])


def with_checksum(block: bytes) -> bytes:
    """A block with its checksum."""
    return block + zlib.crc32(block).to_bytes(4, "little")


def reversed_number(number: int) -> bytes:
    """A number that is read from the last byte backwards."""
    out = bytearray([number & 127])
    while number := number >> 7:
        out.append(number & 127 | 128)
    return bytes(out)


def opened(data: memoryview, limit: int) -> tuple[Directory, list[tuple[int, int, int | None]]]:
    """The directory, and each block's start, end and checksum."""
    head = len(HEAD)
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise CorruptArchive("this is not a .lissom archive: it does not start with its four magic bytes")
    if len(data) < head + 5:
        raise CorruptArchive(f"an archive of {len(data)} bytes is truncated")
    if data[len(MAGIC)] != VERSION:
        raise CorruptArchive(f"the archive has version {data[len(MAGIC)]}; this lissom reads version {VERSION}: use a newer one")
    length, trailer = _trailer(data)
    sealed = length & 1
    end = len(data) - trailer - 4
    start = end - (length >> 1)
    if start < head:
        raise CorruptArchive("the archive is shorter than its directory: the file is truncated or was altered")
    checksum = int.from_bytes(data[end : end + 4], "little")
    covered = zlib.crc32(
        data[end + 4 :], zlib.crc32(data[:end] if sealed else data[start:end], 0 if sealed else zlib.crc32(data[:head]))
    )
    if covered != checksum:
        raise CorruptArchive("the directory does not match its checksum: the file is truncated or was altered")
    directory = Directory.from_bytes(bytes(data[start:end]), limit)
    blocks: list[tuple[int, int, int | None]] = []
    at = head
    for size in directory.lengths:
        stop = at + size
        if stop > start:
            raise CorruptArchive("the directory declares more blocks than there are bytes: the file was altered")
        blocks.append((at, stop, None if sealed else int.from_bytes(data[stop : stop + 4], "little")))
        at = stop if sealed else stop + 4
    if at != start:
        raise CorruptArchive("there are bytes between the last block and the directory: the file was altered")
    _check_sizes(directory, len(blocks), limit)
    return directory, blocks


def _trailer(data: memoryview) -> tuple[int, int]:
    """The number that ends the file, written so that it can be read backwards, and how many bytes it takes."""
    number = taken = 0
    while taken < 9 and taken < len(data):
        byte = data[len(data) - 1 - taken]
        number = number << 7 | (byte & 127)
        taken += 1
        if (byte & 128) == 0:
            return number, taken
    raise CorruptArchive("the archive's last bytes are no length: the file is truncated or was altered")


def _check_sizes(directory: Directory, blocks: int, limit: int) -> None:
    for entry in directory.entries:
        if prod(max(length, 1) for length in entry.shape) > 1 << 48:
            raise CorruptArchive(f"tensor {entry.name!r} declares the shape {entry.shape}: the file was altered")
    declared = sum(
        entry.size * (dtype_named(entry.dtype).itemsize if entry.kind == "plain" else 4) for entry in directory.entries
    )
    declared += directory.network or 0
    if declared > limit:
        raise CorruptArchive(
            f"the archive declares {declared} decoded bytes, over the limit of {limit}: raise limit= if you trust it"
        )
    expected = len(plan(directory.entries)) + (directory.network is not None)
    if blocks != expected:
        raise CorruptArchive(f"the archive has {blocks} blocks where its tensors need {expected}: the file was altered")
