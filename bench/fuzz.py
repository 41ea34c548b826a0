"""The table [fuzz]: archives that were mutated or cut give the right tensors or CorruptArchive, and nothing else.

    python bench/fuzz.py                 # a million mutations; a stopped run goes on where it was
    python bench/fuzz.py --count 10000000
    python bench/fuzz.py --quick         # a minute of it

The seeds are small valid archives of every kind of tensor, both efforts, with and without network and metadata. Every
second mutation gets right checksums again, as somebody who wants to harm would do it: then any tensors of the declared
shapes are a right outcome, in the directory's words; without it, only the archive's own tensors are. The process may
take twice what the limit on decoded bytes allows, beyond what it takes for the valid archives: looked at after each round.
"""

from __future__ import annotations

import functools
import resource
import sys
import time
import traceback
import zlib
from random import Random
from typing import Any

import ml_dtypes
import numpy as np

from harness import Bench, arguments
from lissom.codec import Archive, Quantized, Table, Uniform, decode, encode, trellis
from lissom.codec.envelope import MAGIC
from lissom.errors import CorruptArchive

LIMIT = 64 << 20
ROUND = 50_000
SLACK = 96 << 20  # the interpreter, the models of a stream and the allocator


def tensors(seed: int) -> dict[str, Any]:
    """One tensor of each kind, small."""
    random = np.random.default_rng(seed)
    levels = random.integers(-3, 4, (5, 6)).astype(np.int32)
    path = random.integers(-2, 3, 24).astype(np.int32)
    trellis.from_indices(path, trellis.MACHINES[8])
    one = Uniform(np.array(np.float32(0.5)), np.array(0, np.int32))
    return {
        "conv.weight": Quantized(levels, Uniform(np.full((5, 1), 0.5, np.float32), np.full((5, 1), 2, np.int32))),
        "conv.bias": random.normal(size=5).astype(np.float32),
        "fc.weight": Quantized(np.abs(levels), Table(np.float32([0, 1, -1, 0.5])), mask=levels > 0),
        "path": Quantized(path.reshape(4, 6), one, trellis=8),
        "half": random.normal(size=(3, 4)).astype(ml_dtypes.bfloat16),
        "count": np.array(seed, np.int64),
        "steps": np.arange(12, dtype=np.int64) * seed,
        "flags": random.random((3, 3)) > 0.5,
        "empty": np.zeros((0, 4), np.float16),
    }


def seeds() -> list[bytes]:
    """Valid archives, from a few bytes to some kilobytes; the last have blocks with checksums of their own."""
    found = []
    for number, effort in enumerate(("fast", "best")):
        every = tensors(number + 1)
        found += [encode({name: tensor}, effort=effort) for name, tensor in every.items()]
        found.append(encode(every, effort=effort))
        found.append(encode(every, effort=effort, network=b"a graph " * 9 + bytes(range(40)), metadata={"made": "by"}))
        shape = (64, 64) if effort == "fast" else (12, 16)  # large enough for fixed tables, which effort `best` has not
        wide = np.random.default_rng(number).normal(size=shape).astype(np.float32)
        found.append(encode({"wide": wide, "q": Quantized(np.round(wide * 9).astype(np.int32), Uniform(
            np.array(np.float32(1)), np.array(0, np.int32)))}, effort=effort))  # fmt: skip
    return found


def mutated(data: bytes, random: Random) -> bytes:
    """One to four edits: bits flipped, bytes set, pieces removed, doubled or swapped, the end cut off."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        if not out:
            break
        at, length, kind = int(random.random() * len(out)), random.randint(1, 8), random.randint(0, 6)
        if kind == 0:
            out[at] ^= 1 << random.randint(0, 7)
        elif kind == 1:
            out[at] = random.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = out[at : at + length]
        elif kind == 4:
            out[at:at] = random.randbytes(length)
        elif kind == 5:
            del out[at:]
        else:
            other = int(random.random() * len(out))
            out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
    return bytes(out)


def resealed(data: bytes, random: Random) -> bytes:
    """The archive with its payload or directory mutated, and lengths and checksum made right again where it has one block."""
    trailer = 1
    while trailer < len(data) and data[-trailer] & 128:
        trailer += 1
    number = 0
    for byte in data[: -trailer - 1 : -1]:
        number = number << 7 | byte & 127
    end = len(data) - trailer - 4
    start = end - (number >> 1)
    head = len(MAGIC) + 1
    if not number & 1 or start < head:
        return mutated(data, random)
    body, directory = data[head:start], data[start:end]
    if random.random() < 0.8:
        body = mutated(body, random)[: len(body)].ljust(len(body), b"\0")  # the directory holds its length
    else:
        directory = mutated(directory, random)
    rest, tail = len(directory) << 1 | 1, bytearray()
    tail.append(rest & 127)
    while rest := rest >> 7:
        tail.append(rest & 127 | 128)
    covered = data[:head] + body + directory + bytes(tail)
    return data[:head] + body + directory + zlib.crc32(covered).to_bytes(4, "little") + bytes(tail)


def same(one: Archive, other: Archive) -> bool:
    """Whether two archives hold the same, bit by bit."""
    if (one.network, one.metadata, list(one.tensors)) != (other.network, other.metadata, list(other.tensors)):
        return False
    for before, after in zip(one.tensors.values(), other.tensors.values(), strict=True):
        pair = [np.asarray(tensor.dense() if isinstance(tensor, Quantized) else tensor) for tensor in (before, after)]
        if pair[0].dtype != pair[1].dtype or pair[0].shape != pair[1].shape or pair[0].tobytes() != pair[1].tobytes():
            return False
    return True


def whole(archive: Archive) -> bool:
    """Whether what came out of a resealed archive is tensors, every one of the size that it says."""
    for tensor in archive.tensors.values():
        if isinstance(tensor, Quantized):
            if tensor.levels.dtype != np.int32 or (isinstance(tensor.decoding, Table) and tensor.levels.size and not (
                tensor.levels.min() >= 0 and tensor.levels.max() < len(tensor.decoding.values))):  # fmt: skip
                return False
        elif not isinstance(tensor, np.ndarray):
            return False
    return True


def round_of(number: int, count: int) -> dict[str, Any]:
    """``count`` mutations; the outcomes."""
    valid = seeds()
    truths = [decode(data, threads=1) for data in valid]
    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    random = Random(number)
    refused = right = 0
    wrong: list[str] = []
    for index in range(count):
        place = random.randrange(len(valid))
        seal = index % 2 == 1
        data = resealed(valid[place], random) if seal else mutated(valid[place], random)
        try:
            with np.errstate(all="ignore"):
                found = decode(data, threads=1, limit=LIMIT)
                good = whole(found) if seal else same(found, truths[place])
        except CorruptArchive:
            refused += 1
            continue
        except Exception:  # noqa: BLE001 - any other error is what this bench looks for
            good, found = False, traceback.format_exc()[-300:]
        right += good
        if not good:
            wrong.append(f"seed {place}, mutation {index}: {found!r:.500} from {data.hex()[:400]}")
    grown = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - floor)
    if grown > 2 * LIMIT + SLACK:
        wrong.append(f"memory grew by {grown} bytes where the limit is {LIMIT}")
    return {"mutations": count, "corrupt_archive": refused, "right_tensors": right, "wrong": wrong, "memory_grown": grown}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """All mutations tried, where none had a wrong outcome."""
    clean = rows and not any(row["wrong"] for row in rows)
    return {"mutations": sum(row["mutations"] for row in rows) if clean else None}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", type=int, default=1_000_000)
    chosen = parser.parse_args()
    bench = Bench("fuzz", figures, quick=chosen.quick)
    started = time.monotonic()
    size, rounds = (200_000, 1) if chosen.quick else (ROUND, -(-chosen.count // ROUND))
    for number in range(rounds):
        bench.row({"seed": number}, functools.partial(round_of, number, size))
    print(bench.save(), f"{time.monotonic() - started:.0f} s")
    sys.exit(any(row["wrong"] for row in bench.rows))


if __name__ == "__main__":
    main()
