"""A payload being written or read: numbers, level arrays and exact arrays, by the same calls in both directions.

Every method takes the value when encoding, returns it in both directions, and ignores it when decoding; so
what a payload holds is said once, in one order, and the two directions cannot disagree.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec import mixed_levels, quick_levels, rangecoder, scalars, tables, trellis
from lissom.codec.trellis import MACHINES
from lissom.errors import CorruptArchive, InputRefused

__all__ = ["EFFORTS", "Stream"]

EFFORTS: dict[str, ModuleType] = {"fast": quick_levels, "best": mixed_levels}
Levels = npt.NDArray[np.int32]


class Stream:
    """One payload.

    Args:
        data: the bytes to decode, or None to encode.
        effort: ``"fast"`` or ``"best"``, the level coder that both sides use.
    """

    def __init__(self, data: bytes | memoryview | None, effort: str) -> None:
        self.decoding = data is not None
        self._raw, coded = _parted(memoryview(b"\0" if data is None else data))
        self._written = bytearray()
        self._taken = 0  # raw bytes read so far
        self._input = np.frombuffer(bytearray(coded), np.uint8)
        self._output = bytearray()
        self._state = rangecoder.start(coded if self.decoding else None)
        self.effort = effort
        self._coder = EFFORTS[effort]
        self._model: Any = None
        self._numbers = scalars.new_numbers()
        self._rows = np.zeros(0, np.uint8)  # how alive each row of the last matrix was: a hint for what follows it

    def finish(self) -> bytes:
        """The bytes of everything written: the number of raw bytes, they, and the range coder's."""
        head, number = bytearray(), len(self._written)
        while number > 127:
            head.append(128 | number & 127)
            number >>= 7
        head.append(number)
        coded = rangecoder.finish(bytes(self._output), int(self._state[0]), int(self._state[1]))
        return bytes(head + self._written) + coded

    def raw(self, piece: bytes | None, length: int) -> bytes | memoryview:
        """``length`` bytes as they are, apart from the coded ones."""
        if piece is not None:
            self._written += piece
            return piece
        if length > len(self._raw) - self._taken:
            raise CorruptArchive("a payload ends before what it declares: the file is truncated or was altered")
        self._taken += length
        return self._raw[self._taken - length : self._taken]

    def _run(self, kernel: Any, room: int, *arguments: Any) -> Any:
        """Call a kernel with a buffer for its bytes; when encoding, keep them."""
        if self.decoding:
            if self._state.item(3) > len(self._input) + 64:
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

    def on_trellis(self, levels: Levels, states: int) -> int:
        """Code an int32 array whose levels follow a trellis, in place when decoding; returns the number of states.

        Raises:
            InputRefused: the levels leave the trellis.
        """
        number = self.number(states.bit_length(), 16, 8)
        machine = MACHINES.get(1 << number >> 1, (0, 0))
        if machine[0] == 0:
            raise CorruptArchive(f"a payload names a trellis of {1 << number >> 1} states: the file was altered")
        orders = range(2 if levels.ndim > 1 else 1)
        order = 0
        if not self.decoding:
            fits = (order for order in orders if trellis.admitted(np.ascontiguousarray(ORDERS[order](levels)[0]), machine))
            order = next(fits, -1)
            if order < 0:
                raise InputRefused("the levels leave the trellis that they claim to follow: give trellis=0")
        order = self.number(order, 17, len(orders) - 1)
        arranged, width = ORDERS[order](levels)
        if levels.size == 0:
            return 1 << number >> 1
        work = np.ascontiguousarray(arranged)
        if self._coder is quick_levels:
            indices = np.zeros_like(work) if self.decoding else work >> 1
            self.levels(indices)
            if self.decoding:
                trellis.from_indices(indices.reshape(-1), machine)
            work = indices
        else:
            self._code(work, width, machine)
        if self.decoding and not np.shares_memory(work, levels):
            arranged[...] = work
        return 1 << number >> 1

    def levels(self, levels: Levels, *, side: bool = False) -> None:
        """Code an int32 array of any shape, in place when decoding.

        Effort ``fast`` codes large dense arrays by fixed tables. What describes such tables is ``side``: it is coded
        adaptively, and has no order of rows and columns worth looking for.
        """
        if side:
            if levels.size:
                self._code(_natural(levels)[0], 1, MACHINES[0])
            return
        if self._coder is quick_levels and levels.size >= tables.LARGE:
            window = None if self.decoding else tables.dense(levels)
            if self.number(int(window is not None), 11, 1):
                tables.code_dense(self, levels, window or (0, 0))
                return
        order = self.number(0 if self.decoding else best_order(levels, self._coder), 1, len(ORDERS) - 1)
        if levels.size == 0:
            return
        arranged, width = ORDERS[order](levels)
        if arranged.shape[2] == 1 and arranged.shape[1] >= 2 * PERIODS.start:
            width = 1 + self.number(0 if self.decoding else period(arranged[:, :, 0]) - 1, 15, arranged.shape[1])
        work = np.ascontiguousarray(arranged)
        self._code(work, width, MACHINES[0])
        if self.decoding and not np.shares_memory(work, levels):
            arranged[...] = work

    def _code(self, work: Levels, width: int, machine: tuple[int, int]) -> None:
        """Code rows, columns and kernel positions by their contexts; what follows learns how alive the rows were."""
        if self._model is None:
            self._model = self._coder.new_model()
        largest = 0 if self.decoding else max(int(work.max()), -int(work.min()))
        mean = 0.0 if self.decoding else float(np.abs(work, dtype=np.float64).mean())
        unary = self.number(14 if mean < (8 if machine[0] else 4) else 2, 2, 20)
        rows, columns, kernel = work.shape
        link = np.zeros(columns, np.uint8)
        if len(self._rows) and columns % len(self._rows) == 0:
            link = np.repeat(self._rows, columns // len(self._rows))
        activity = np.zeros(rows, np.uint8)
        bits = min(largest, 20) + 4 + 2 * largest.bit_length()
        self._run(self._coder.code_levels, 2 * bits * work.size, work, width, unary, link, activity, machine, self._model)
        if rows > 1 or kernel > 1:
            self._rows = activity

    def mantissas(self, classes: Levels, mantissas: npt.NDArray[np.int64], bits: int) -> None:
        """Code the low ``bits`` bits of ``mantissas`` wherever ``classes`` is not zero, in place when decoding."""
        room = classes.size * (bits // 8 + 8)
        self._run(scalars.code_mantissas, room, classes.reshape(-1), mantissas.reshape(-1), bits, self._numbers)

    def text(self, text: bytes | None, length: int, primer: bytes = b"") -> bytes:
        """Code ``length`` bytes that follow ``primer``, which both sides know."""
        work = np.zeros(len(primer) + length, np.uint8)
        work[: len(primer)] = np.frombuffer(primer, np.uint8)
        if text is not None:
            work[len(primer) :] = np.frombuffer(text, np.uint8)
        self._run(scalars.code_text, 16 * length, work, len(primer), *scalars.taught(primer))
        return work[len(primer) :].tobytes()


def _parted(data: memoryview) -> tuple[memoryview, memoryview]:
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
    return data[at : at + number], data[at + number :]


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
TRIAL = {quick_levels: 1 << 13, mixed_levels: 1 << 16}  # positions that a trial of scan orders looks at
ORDERS = (_natural, _exchanged, _kernels_first)


def best_order(levels: Levels, coder: ModuleType) -> int:
    """Which scan order costs the fewest bytes, by trying each on the first rows."""
    if levels.ndim < 2 or levels.size < 64 or not levels.any():
        return 0
    sample = levels[: max(1, TRIAL[coder] * len(levels) // levels.size)]
    costs = []
    for order in ORDERS[: 3 if levels.ndim > 2 else 2]:
        arranged, width = order(sample)
        work = np.ascontiguousarray(arranged)
        state = rangecoder.start(None)
        hints = np.zeros(work.shape[1], np.uint8), np.zeros(work.shape[0], np.uint8)
        coder.code_levels(False, np.empty(0, np.uint8), state, work, width, 14, *hints, MACHINES[0], coder.new_model())
        costs.append(int(state[3]))
    return int(np.argmin(costs))
