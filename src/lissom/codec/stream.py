"""A payload being written or read: numbers, level arrays and exact arrays, by the same calls in both directions.

Every method takes the value when encoding, returns it in both directions, and ignores it when decoding; so
what a payload holds is said once, in one order, and the two directions cannot disagree.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec import mixed_levels, quick_levels, rangecoder, rans, scalars
from lissom.errors import CorruptArchive

__all__ = ["EFFORTS", "Stream"]

EFFORTS: dict[str, ModuleType] = {"fast": quick_levels, "best": mixed_levels}
Levels = npt.NDArray[np.int32]
LARGE = 1 << 12  # positions from which fixed tables pay for themselves
CLASSES = 8


class Stream:
    """One payload.

    Args:
        data: the bytes to decode, or None to encode.
        effort: ``"fast"`` or ``"best"``, the level coder that both sides use.
    """

    def __init__(self, data: bytes | None, effort: str) -> None:
        self.decoding = data is not None
        self._raw, coded = _parted(data) if data is not None else (bytearray(), None)
        self._taken = 0  # raw bytes read so far
        self._input = np.frombuffer(bytearray(coded or b""), np.uint8)
        self._output = bytearray()
        self._state = rangecoder.start(coded)
        self.effort = effort
        self._coder = EFFORTS[effort]
        self._model: Any = None
        self._numbers = scalars.new_numbers()
        self._rows = np.zeros(0, np.uint8)  # how alive each row of the last matrix was: a hint for what follows it

    def finish(self) -> bytes:
        """The bytes of everything written: the number of raw bytes, they, and the range coder's."""
        head, number = bytearray(), len(self._raw)
        while number > 127:
            head.append(128 | number & 127)
            number >>= 7
        head.append(number)
        coded = rangecoder.finish(bytes(self._output), int(self._state[0]), int(self._state[1]))
        return bytes(head + self._raw) + coded

    def raw(self, piece: bytes | None, length: int) -> bytes:
        """``length`` bytes as they are, apart from the coded ones."""
        if piece is not None:
            self._raw += piece
            return piece
        if length > len(self._raw) - self._taken:
            raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")
        self._taken += length
        return bytes(self._raw[self._taken - length : self._taken])

    def symbols(self, symbols: npt.NDArray[np.uint8]) -> None:
        """Code a large uint8 array at memory speed, in place when decoding; rows of like size share a table."""
        rows = symbols.reshape(_rows_of(symbols), -1)
        classes = np.zeros(len(rows), np.int32) if self.decoding else _classes(rows)
        self.levels(classes, adaptive=True)
        count = int(classes.max(initial=0)) + 1
        if self.decoding and (classes.min(initial=0) < 0 or count > CLASSES):
            raise CorruptArchive(f"a payload names table {count} of at most {CLASSES}: the file was altered")
        scaled = np.zeros((count, 256), np.int32)
        if not self.decoding:
            counts = np.array([np.bincount(rows[classes == kind].reshape(-1), minlength=256) for kind in range(count)])
            scaled[...] = rans.frequencies(counts)
        self.levels(scaled, adaptive=True)
        if self.decoding:
            self._decode_symbols(rows, classes, scaled)
            return
        words = np.empty(rows.size + 2 * rans.LANES, np.uint16)
        at = rans.encode_rows(rows, classes, scaled.astype(np.int64), words)
        self.number(len(words) - at, 10)
        self.raw(words[at:].astype("<u2").tobytes(), 2 * (len(words) - at))

    def _decode_symbols(self, rows: npt.NDArray[np.uint8], classes: Levels, scaled: Levels) -> None:
        if scaled.min() < 0 or (scaled.sum(axis=1, dtype=np.int64) != rans.WHOLE).any():
            raise CorruptArchive("a payload holds frequencies that do not add up: the file was altered")
        length = self.number(0, 10, rows.size + 2 * rans.LANES)
        words = np.zeros(length + rows.shape[1] + 4 * rans.LANES, np.uint16)
        words[:length] = np.frombuffer(self.raw(None, 2 * length), "<u2")
        if rans.decode_rows(words, rans.decoding_table(scaled), classes, rows) != length:
            raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")

    def _run(self, kernel: Any, room: int, *arguments: Any) -> Any:
        """Call a kernel with a buffer for its bytes; when encoding, keep them."""
        if self.decoding:
            if int(self._state[3]) > len(self._input) + 64:
                raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")
            return kernel(True, self._input, self._state, *arguments)
        buffer = np.empty(room + 64, np.uint8)  # pages that stay untouched cost nothing
        self._state[3] = 0
        result = kernel(False, buffer, self._state, *arguments)
        self._output += buffer[: int(self._state[3])].tobytes()
        return result

    def number(self, number: int, kind: int, limit: int = 2**62) -> int:
        """One number from 0 to ``limit``; ``kind`` says whose statistics it follows."""
        result = int(self._run(scalars.code_number, 32 + 16 * 64, number, kind, self._numbers))
        if result > limit:
            raise CorruptArchive(f"a payload holds {result} where at most {limit} makes sense: the file was altered")
        return result

    def levels(self, levels: Levels, *, adaptive: bool = False) -> None:
        """Code an int32 array of any shape, in place when decoding.

        Effort ``fast`` codes large dense arrays by fixed tables, unless ``adaptive`` forbids it.
        """
        if not adaptive and self._coder is quick_levels and levels.size >= LARGE:
            dense = self.number(0 if self.decoding else int(_dense(levels)), 11, 1)
            if dense:
                self._dense_levels(levels)
                return
        if self._model is None:
            self._model = self._coder.new_model()
        largest = 0 if self.decoding or levels.size == 0 else int(np.abs(levels.astype(np.int64)).max())
        mean = 0.0 if self.decoding or levels.size == 0 else float(np.abs(levels, dtype=np.float64).mean())
        order = self.number(0 if self.decoding else best_order(levels, self._coder), 1, len(ORDERS) - 1)
        unary = self.number(14 if mean < 4 else 2, 2, 20)
        if levels.size == 0:
            return
        arranged, width = ORDERS[order](levels)
        if arranged.shape[2] == 1 and arranged.shape[1] >= 2 * PERIODS.start:
            width = 1 + self.number(0 if self.decoding else period(arranged[:, :, 0]) - 1, 15, arranged.shape[1])
        work = np.ascontiguousarray(arranged)
        rows, columns, _ = work.shape
        link = np.zeros(columns, np.uint8)
        if len(self._rows) and columns % len(self._rows) == 0:
            link = np.repeat(self._rows, columns // len(self._rows))
        activity = np.zeros(rows, np.uint8)
        bits = min(largest, 20) + 4 + 2 * largest.bit_length()
        self._run(self._coder.code_levels, 2 * bits * levels.size, work, width, unary, link, activity, self._model)
        if self.decoding and not np.shares_memory(work, levels):
            arranged[...] = work
        if levels.ndim > 1:
            self._rows = activity

    def _dense_levels(self, levels: Levels) -> None:
        """Levels less their minimum, the high byte and then the low one where they need two."""
        minimum = self.number(0 if self.decoding else int(levels.min()) + 2**31, 12, 2**32 - 1) - 2**31
        rest = levels.astype(np.int64) - minimum
        shift = self.number(max(0, int(rest.max(initial=0)).bit_length() - 8), 13, 8)
        high = (rest >> shift).astype(np.uint8)
        self.symbols(high)
        low = (rest & ((1 << shift) - 1)).astype(np.uint8)
        if shift:
            self.symbols(low)
        if self.decoding:
            levels[...] = (high.astype(np.int64) << shift | low if shift else high.astype(np.int64)) + minimum

    def mantissas(self, classes: Levels, mantissas: npt.NDArray[np.int64], bits: int) -> None:
        """Code the low ``bits`` bits of ``mantissas`` wherever ``classes`` is not zero, in place when decoding."""
        room = classes.size * (bits // 8 + 8)
        self._run(scalars.code_mantissas, room, classes.reshape(-1), mantissas.reshape(-1), bits, self._numbers)

    def text(self, text: bytes | None, length: int, primer: bytes) -> bytes:
        """Code ``length`` bytes that follow ``primer``, which both sides know."""
        work = np.zeros(len(primer) + length, np.uint8)
        work[: len(primer)] = np.frombuffer(primer, np.uint8)
        if text is not None:
            work[len(primer) :] = np.frombuffer(text, np.uint8)
        self._run(scalars.code_text, 16 * length, work, len(primer), *scalars.new_text())
        return work[len(primer) :].tobytes()


def _parted(data: bytes) -> tuple[bytearray, bytes]:
    """The raw and the coded bytes of a payload."""
    number = shift = at = 0
    while at < len(data) and at < 9:
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            break
    if number > len(data) - at:
        raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")
    return bytearray(data[at : at + number]), data[at + number :]


def _rows_of(array: npt.NDArray[Any]) -> int:
    """How many rows an array is coded in: its own along the first axis where they are long enough, else of about 1024."""
    if array.ndim > 1 and array.size // len(array) >= 64:
        return len(array)
    return next((count for count in range(max(1, array.size // 1024), 0, -1) if array.size % count == 0), 1)


def _classes(rows: npt.NDArray[np.uint8]) -> Levels:
    """The rows in equal classes by how far their symbols lie from the commonest one."""
    count = min(CLASSES, max(1, rows.size >> 14), len(rows))
    centre = int(np.bincount(rows.reshape(-1), minlength=256).argmax())
    spread = np.abs(rows.astype(np.int16) - centre).sum(axis=1, dtype=np.int64)
    classes = np.empty(len(rows), np.int32)
    classes[np.argsort(spread, kind="stable")] = np.arange(len(rows)) * count // len(rows)
    return classes


def _dense(levels: Levels) -> bool:
    """Whether fixed tables of bytes suit: over 1.5 bits a level, and at most 16 bits of range."""
    minimum, maximum = int(levels.min()), int(levels.max())
    if maximum - minimum >= 1 << 16:
        return False
    _, counts = np.unique(levels.reshape(-1)[: 1 << 16], return_counts=True)
    share = counts / counts.sum()
    return bool(-(share * np.log2(share)).sum() > 1.5)


def _natural(levels: Levels) -> tuple[Levels, int]:
    """Rows along the first axis, columns along the second, kernels along the rest."""
    if levels.ndim <= 1:
        return levels.reshape(1, -1, 1), 1
    shape = levels.shape[2:]
    return levels.reshape(levels.shape[0], levels.shape[1], -1), shape[-1] if shape else 1


def _exchanged(levels: Levels) -> tuple[Levels, int]:
    arranged, width = _natural(levels)
    return arranged.transpose(1, 0, 2), width


def _kernels_first(levels: Levels) -> tuple[Levels, int]:
    """The layout of Keras' kernels: columns along the last axis but one, rows along the last."""
    if levels.ndim < 3:
        return _natural(levels)
    return levels.reshape(-1, *levels.shape[-2:]).transpose(2, 1, 0), levels.shape[-3]


PERIODS = range(8, 129)


def period(levels: Levels) -> int:
    """How far apart columns lie that are alive together, as the lines of an image that was flattened; 1 where none do.

    >>> image = np.tile(np.minimum(np.arange(28), np.arange(28)[::-1]) > 9, (50, 28)).astype(np.int32)
    >>> period(image)
    28
    """
    alive = np.abs(levels[:TRIAL_ROWS]).clip(0, 8).sum(axis=0).astype(np.float64)
    alive -= alive.mean()
    power = float((alive**2).mean())
    lags = [lag for lag in PERIODS if 2 * lag <= len(alive)]
    if power == 0 or not lags:
        return 1
    alike = [float((alive[lag:] * alive[:-lag]).mean()) / power for lag in lags]
    # Multiples of the period are alike to the last bits, whose rounding must not choose between them.
    best = next(place for place, value in enumerate(alike) if value >= max(alike) - 1e-6)
    return lags[best] if alike[best] > 0.2 else 1


TRIAL_ROWS = 512
ORDERS = (_natural, _exchanged, _kernels_first)
TRIAL = 1 << 16  # positions that a trial of scan orders looks at


def best_order(levels: Levels, coder: ModuleType) -> int:
    """Which scan order costs the fewest bytes, by trying each on the first rows."""
    if levels.ndim < 2 or levels.size < 64 or not levels.any():
        return 0
    sample = levels[: max(1, TRIAL * len(levels) // levels.size)]
    costs = []
    for order in ORDERS[: 3 if levels.ndim > 2 else 2]:
        arranged, width = order(sample)
        work = np.ascontiguousarray(arranged)
        state = rangecoder.start(None)
        hints = np.zeros(work.shape[1], np.uint8), np.zeros(work.shape[0], np.uint8)
        coder.code_levels(False, np.empty(0, np.uint8), state, work, width, 14, *hints, coder.new_model())
        costs.append(int(state[3]))
    return int(np.argmin(costs))
