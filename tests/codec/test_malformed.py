"""Hostile and broken archives: one for each error, and drawn ones, which end in tensors or in CorruptArchive."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.codec import Table, Uniform, arrays, decode, encode, tables
from lissom.codec.directory import CHUNK, PRIMER, Directory, Entry
from lissom.codec.envelope import HEAD, reversed_number
from lissom.codec.quantized import code_decoding
from lissom.codec.stream import Stream
from lissom.errors import CorruptArchive

EFFORTS = ("fast", "best")
relaxed = settings(deadline=None, derandomize=True, max_examples=40)


def sealed(body: bytes, directory: bytes, flag: int = 1) -> bytes:
    """An archive with a right checksum around whatever it is given."""
    end = reversed_number(len(directory) << 1 | flag)
    covered = (HEAD + body if flag else HEAD) + directory + end
    return HEAD + body + directory + zlib.crc32(covered).to_bytes(4, "little") + end


def declared(*entries: Entry, lengths: tuple[int, ...] = (3,), **options) -> bytes:
    return Directory("best", list(entries), lengths=list(lengths), **options).to_bytes()


def directory_of(raw: bytes) -> bytes:
    """An empty archive whose directory is coded as it should be, and says ``raw``."""
    stream = Stream(None, "best")
    stream.number(len(raw), 0)
    stream.text(raw, len(raw), PRIMER)
    return sealed(b"", stream.finish())


def payload(kind: str, dtype: str, shape: tuple[int, ...], fill: Callable[[Stream], object], effort: str = "best") -> bytes:
    """An archive of one tensor whose block holds what ``fill`` writes."""
    stream = Stream(None, effort)
    fill(stream)
    body = stream.finish()
    return sealed(body, Directory(effort, [Entry("a", kind, dtype, shape)], lengths=[len(body)]).to_bytes())


def all_of(*calls: Callable[[Stream], object]) -> Callable[[Stream], None]:
    def fill(stream: Stream) -> None:
        for call in calls:
            call(stream)

    return fill


def number(value: int, kind: int) -> Callable[[Stream], object]:
    return lambda stream: stream.number(value, kind)


def levels(value: int, *shape: int, side: bool = False) -> Callable[[Stream], object]:
    return lambda stream: stream.levels(np.full(shape, value, np.int32), side=side)


PAIR = np.float32([1.0, 2.0])
TABLE = Table(PAIR)
GRID = Uniform(np.array(np.float32(1)), np.array(0, np.int32))
PLAIN = Entry("a", "plain", "float32", (4,))
SERIALISED = Directory("best", [PLAIN], lengths=[3]).serialised()
VALID = encode({"a": np.arange(9, dtype=np.float32)})
PLANES = number(arrays.PLANES, arrays.MODE)
WIDE = (64, 64)

MALFORMED = {
    "does not start": b"PK\3\4" + VALID[4:],
    "is truncated": VALID[:8],
    "version 9": VALID[:4] + b"\x09" + VALID[5:],
    "no length": VALID[:-1] + b"\xff" * 10,
    "shorter than its directory": VALID[:-1] + b"\x7f",
    "directory does not match its checksum": VALID[:-7] + bytes([VALID[-7] ^ 1]) + VALID[-6:],
    "more blocks than there are bytes": sealed(b"abc", declared(PLAIN, lengths=(4,))),
    "bytes between": sealed(b"abc", declared(PLAIN, lengths=(2,))),
    "over the limit": sealed(b"abc", declared(Entry("a", "plain", "float32", (1 << 40,)))),
    "declares the shape": sealed(b"abc", declared(Entry("a", "plain", "float32", (0, 1 << 50)))),
    "twice": sealed(b"abc", declared(PLAIN, PLAIN)),
    "blocks where its tensors need": sealed(b"", declared(PLAIN, lengths=())),
    "has flags 0x8": directory_of(b"\x08"),
    "directory ends before": directory_of(SERIALISED[:-1]),
    "goes on after its end": directory_of(SERIALISED + b"\0"),
    "more than 63 bits": directory_of(b"\1" + b"\xff" * 12),
    "declares 127 where at most": directory_of(b"\1\x7f"),
    "has no end": directory_of(b"\1\1abc"),
    "is not UTF-8": directory_of(b"\1\1\xc3(\xff\0\0"),
    "has kind 7, dtype 0, 1 axes": directory_of(b"\1\1a\xff\xe0\1"),
    "payload ends before": sealed(b"\x7fa", declared(PLAIN, lengths=(2,))),
    "holds 99 where at most 6": payload("plain", "int8", (4,), number(99, arrays.MODE)),
    "as a number of 8 bits": payload("plain", "int8", (4,), all_of(
        number(arrays.CONSTANT, arrays.MODE), number(300, arrays.WORD))),
    "int8 numbers of a tensor as floats": payload("plain", "int8", (4,), number(arrays.TABLE, arrays.MODE)),
    "planes of a int8": payload("plain", "int8", (4,), PLANES),
    "exponent that its dtype lacks": payload("plain", "float32", (4,), all_of(
        number(arrays.FLOAT, arrays.MODE), number(23, arrays.TRAILING), number(0, arrays.PLACE), levels(5, 4),
        lambda stream: stream.mantissas(np.full(4, 5, np.int32), np.zeros(4, np.int64), 0))),
    "names table 10 of at most 8": payload("plain", "float32", WIDE, all_of(PLANES, levels(9, 64, side=True)), "fast"),
    "frequencies that do not add up": payload("plain", "float32", WIDE, all_of(
        PLANES, levels(0, 64, side=True), number(2, tables.LAST), levels(1, 1, 3, side=True)), "fast"),
    "more or fewer large levels": payload("uniform", "float32", WIDE, all_of(
        lambda stream: code_decoding(stream, GRID, WIDE, table=False), number(1, 11), number(1 << 31, tables.ORIGIN),
        number(0, tables.SHIFT), lambda stream: tables.code_bytes(stream, np.zeros(WIDE, np.uint8)),
        number(5, tables.OUTSIDE)), "fast"),
    "names a trellis of 2 states": payload("trellis uniform", "float32", (4,), all_of(
        lambda stream: code_decoding(stream, GRID, (4,), table=False), number(2, 16))),
}  # fmt: skip


@pytest.mark.parametrize("message", MALFORMED)
def test_each_malformed_archive_is_refused_by_its_own_error(message):
    with pytest.raises(CorruptArchive, match=message):
        decode(MALFORMED[message])


@pytest.mark.parametrize("archive", [
    payload("table", "float32", (4,), all_of(lambda s: code_decoding(s, TABLE, (4,), table=True), levels(2, 4))),
    payload("plain", "float32", (4,), all_of(
        number(arrays.TABLE, arrays.MODE), number(2, arrays.COUNT), lambda s: arrays._float(s, PAIR.view(np.uint32), "float32"),
        levels(2, 4))),
])  # fmt: skip
def test_a_level_outside_its_table_is_refused(archive):
    with pytest.raises(CorruptArchive, match="outside its table"):
        decode(archive)


def test_a_block_that_does_not_match_its_checksum_is_refused():
    data = bytearray(encode({"a": np.zeros(3), "b": np.ones(CHUNK, np.int8)}))
    data[6] ^= 1
    with pytest.raises(CorruptArchive, match="block 0 does not match its checksum"):
        decode(bytes(data))


@relaxed
@given(
    st.binary(max_size=60),
    st.sampled_from(["plain", "table", "uniform", "masked table", "masked uniform", "trellis uniform"]),
    st.sampled_from(EFFORTS),
)
def test_a_hostile_payload_ends_in_tensors_or_in_corrupt_archive(payload, kind, effort):
    entries = [Entry("a", kind, "float32", (40, 30)), Entry("b", "plain", "bfloat16", (70, 80))]
    data = sealed(payload, Directory(effort, entries, lengths=[len(payload)]).to_bytes())
    try:
        tensors = decode(data).tensors
    except CorruptArchive:
        return
    assert tensors["b"].shape == (70, 80)


@pytest.mark.parametrize("end", [0, 1, 4, 5, 12])
def test_truncated_and_doubled_archives_are_refused(end):
    with pytest.raises(CorruptArchive):
        decode(VALID[:end])
    with pytest.raises(CorruptArchive):
        decode(VALID + VALID[: end + 1])
