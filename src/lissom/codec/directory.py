"""What an archive's directory says (names, kinds, shapes, block lengths) and its few coded bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

from lissom.codec.dtypes import DTYPES
from lissom.codec.stream import Stream
from lissom.errors import CorruptArchive

__all__ = ["KINDS", "Directory", "Entry", "Part", "pieces", "plan"]

KINDS = ("plain", "table", "uniform", "masked table", "masked uniform", "trellis uniform")
"""How a tensor is stored; their order is part of the format."""

CHUNK = 1 << 20  # positions in one chunk: what one thread works on, and what reading one tensor costs at most
MOST_AXES = 32
END = 0xFF  # ends a string: no UTF-8 text holds that byte


@dataclass(frozen=True)
class Entry:
    """One tensor: its name, kind, dtype and shape."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of positions."""
        return prod(self.shape)


@dataclass
class Directory:
    """Everything an archive declares before its tensors.

    Args:
        effort: the level coder, ``"fast"`` or ``"best"``.
        entries: the tensors in order.
        metadata: the user's own strings.
        network: bytes of the network section, or None where there is none.
        lengths: coded bytes of each block, in file order (network first).
    """

    effort: str
    entries: list[Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    network: int | None = None
    lengths: list[int] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """The coded directory."""
        raw = self.serialised()
        stream = Stream(None, self.effort)
        stream.number(len(raw), 0)
        stream.text(raw, len(raw), PRIMER)
        return stream.finish()

    @staticmethod
    def from_bytes(data: bytes, limit: int) -> Directory:
        """The directory of an archive whose tensors take at most ``limit`` bytes.

        Raises:
            CorruptArchive: it contradicts itself.
        """
        stream = Stream(data, "best")
        length = stream.number(0, 0, min(limit, 4096 * (len(data) + 16)))
        return _parsed(stream.text(None, length, PRIMER))

    def serialised(self) -> bytes:
        """The directory before it is coded: columns of names, kinds, shapes and lengths."""
        flags = (self.effort == "best") | (self.network is not None) << 1 | bool(self.metadata) << 2
        out = bytearray([flags])
        _put(out, len(self.entries))
        for entry in self.entries:
            out += entry.name.encode() + bytes([END])
        out += bytes(KINDS.index(entry.kind) << 5 | DTYPES.index(entry.dtype) for entry in self.entries)
        out += bytes(len(entry.shape) for entry in self.entries)
        for entry, expected in zip(self.entries, _expectations(entry.shape for entry in self.entries), strict=True):
            for length, guess in zip(entry.shape, expected(), strict=False):
                _put(out, 0 if length == guess else length + 1)
        if self.metadata:
            _put(out, len(self.metadata))
            for text in (text for pair in self.metadata.items() for text in pair):
                out += text.encode() + bytes([END])
        if self.network is not None:
            _put(out, self.network)
        _put(out, len(self.lengths))
        for length in self.lengths:
            _put(out, length)
        return bytes(out)


def _put(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(128 | number & 127)
        number >>= 7
    out.append(number)


class _Expectation:
    """Guesses of each axis' length from the tensors before: a bias follows its weight, inputs follow outputs."""

    def __init__(self) -> None:
        self.last: tuple[int, ...] = ()
        self.matrix: tuple[int, ...] = ()

    def __call__(self) -> Iterator[int]:
        yield self.last[0] if self.last else 0
        yield self.matrix[0] if self.matrix else 0
        for axis in range(2, MOST_AXES):
            yield self.matrix[axis] if axis < len(self.matrix) else 0

    def saw(self, shape: tuple[int, ...]) -> None:
        self.last = shape
        if len(shape) > 1:
            self.matrix = shape


def _expectations(shapes: Iterator[tuple[int, ...]]) -> Iterator[_Expectation]:
    expectation = _Expectation()
    for shape in shapes:
        yield expectation
        expectation.saw(shape)


class _Reader:
    """A cursor over the serialised directory; every read is checked against its end."""

    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def byte(self) -> int:
        if self.at >= len(self.raw):
            raise CorruptArchive("the directory ends before what it declares: the file was altered")
        self.at += 1
        return self.raw[self.at - 1]

    def number(self, limit: int) -> int:
        number = shift = 0
        while True:
            byte = self.byte()
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
            if shift > 63:
                raise CorruptArchive("the directory holds a number of more than 63 bits: the file was altered")
        if number > limit:
            raise CorruptArchive(f"the directory declares {number} where at most {limit} can be: the file was altered")
        return number

    def text(self) -> str:
        end = self.raw.find(bytes([END]), self.at)
        if end < 0:
            raise CorruptArchive("a name in the directory has no end: the file was altered")
        data, self.at = self.raw[self.at : end], end + 1
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise CorruptArchive(f"a name in the directory is not UTF-8: {data!r}") from error


def _parsed(raw: bytes) -> Directory:
    reader = _Reader(raw)
    flags = reader.byte()
    if flags > 7:
        raise CorruptArchive(f"the directory has flags {flags:#x} that this version does not know")
    count = reader.number(len(raw))
    names = [reader.text() for _ in range(count)]
    if len(set(names)) < count:
        raise CorruptArchive(f"the directory names {next(n for n in names if names.count(n) > 1)!r} twice")
    codes = [reader.byte() for _ in range(count)]
    axes = [reader.byte() for _ in range(count)]
    entries, expectation = [], _Expectation()
    for name, code, length in zip(names, codes, axes, strict=True):
        if code >> 5 >= len(KINDS) or code & 31 >= len(DTYPES) or length > MOST_AXES:
            raise CorruptArchive(f"tensor {name!r} has kind {code >> 5}, dtype {code & 31}, {length} axes: unknown")
        guesses = expectation()
        shape = []
        for _ in range(length):
            guess, number = next(guesses), reader.number(1 << 62)
            shape.append(guess if number == 0 else number - 1)
        expectation.saw(tuple(shape))
        entries.append(Entry(name, KINDS[code >> 5], DTYPES[code & 31], tuple(shape)))
    metadata: dict[str, str] = {}
    if flags & 4:
        for _ in range(reader.number(len(raw))):
            key = reader.text()
            metadata[key] = reader.text()
    network = reader.number(1 << 40) if flags & 2 else None
    lengths = [reader.number(1 << 62) for _ in range(reader.number(len(raw)))]
    if reader.at != len(raw):
        raise CorruptArchive("the directory goes on after its end: the file was altered")
    return Directory("best" if flags & 1 else "fast", entries, metadata, network, lengths)


@dataclass(frozen=True)
class Part:
    """A run of a tensor's positions in one chunk: rows ``start`` to ``stop``, or positions where a row is too long."""

    index: int
    start: int
    stop: int
    flat: bool

    def shape(self, entry: Entry) -> tuple[int, ...]:
        """The part's own shape."""
        if self.flat:
            return (self.stop - self.start,)
        return (self.stop - self.start, *entry.shape[1:]) if entry.shape else ()


def pieces(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Which positions of a tensor, in C order, are coded on their own: all, or runs of whole rows, or runs within a row."""
    row = prod(shape[1:])
    parts = [part for chunk in plan([Entry("", "plain", "float32", shape)]) for part in chunk]
    return [(part.start * (1 if part.flat else row), part.stop * (1 if part.flat else row)) for part in parts]


def plan(entries: list[Entry]) -> list[list[Part]]:
    """Which parts of which tensors each chunk holds: whole tensors while they fit, large ones in pieces of their own."""
    chunks: list[list[Part]] = []
    room = 0
    for index, entry in enumerate(entries):
        if entry.size <= CHUNK:
            part = Part(index, 0, entry.shape[0] if entry.shape else 1, flat=False)
            if entry.size > room or not chunks:
                chunks.append([])
                room = CHUNK
            chunks[-1].append(part)
            room -= entry.size
            continue
        row = entry.size // entry.shape[0]
        flat = row > CHUNK
        total = entry.size if flat else entry.shape[0]
        step = CHUNK if flat else CHUNK // row
        chunks += [[Part(index, start, min(start + step, total), flat)] for start in range(0, total, step)]
        room = 0
    return chunks


def _primer() -> bytes:
    """What names, shapes and kinds often look like: known to both sides, so that a small archive need not say it."""
    layers = [f"{layer}.{role}" for layer in ("conv1", "conv2", "fc1", "fc2", "fc3") for role in ("weight", "bias")]
    batch_norm = [f"layer1.0.bn1.{role}" for role in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    attention = [f"encoder.layers.0.self_attn.{p}_proj.{r}" for p in ("q", "k", "v", "out") for r in ("weight", "bias")]
    sequential = [f"features.{n}.{r}" for n in (0, 3, 6) for r in ("weight", "bias")] + [
        "classifier.1.weight",
        "classifier.1.bias",
    ]
    dense = [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
        "4.weight",
        "4.bias",
        "embeddings.word_embeddings.weight",
        "lm_head.weight",
    ]
    other = [
        "attention.query.weight",
        "intermediate.dense.kernel",
        "output.LayerNorm.gamma",
        "lstm.weight_ih_l0",
        "lstm.bias_hh_l0",
    ]
    for_directory = []
    for names in (batch_norm, attention, sequential, dense, other, layers):
        shapes = [(20, 1, 5, 5), (20,), (50, 20, 5, 5), (50,), (500, 800), (500,), (10, 500), (10,), (64, 64, 3, 3), (64,)]
        kinds = ["plain"] * 4 + ["uniform", "plain"] * 2 + ["table", "plain"]
        entries = [Entry(name, kinds[i % 10], "float32", shapes[i % 10]) for i, name in enumerate(names)]
        for_directory.append(Directory("best", entries, {}, None, [1000]).serialised())
    return b"".join(for_directory)


PRIMER = _primer()
