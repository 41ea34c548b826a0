"""A payload being written or read: numbers, level arrays and exact arrays, by the same calls in both directions.

Every method takes the value when encoding, returns it in both directions, and ignores it when decoding; so
what a payload holds is said once, in one order, and the two directions cannot disagree.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec import mixed_levels, quick_levels, rangecoder, scalars
from lissom.errors import CorruptArchive

__all__ = ["EFFORTS", "Stream"]

EFFORTS: dict[str, ModuleType] = {"fast": quick_levels, "best": mixed_levels}
Levels = npt.NDArray[np.int32]


class Stream:
    """One payload.

    Args:
        data: the bytes to decode, or None to encode.
        effort: ``"fast"`` or ``"best"``, the level coder that both sides use.
    """

    def __init__(self, data: bytes | None, effort: str) -> None:
        self.decoding = data is not None
        self._input = np.frombuffer(bytearray(data or b""), np.uint8)
        self._output = bytearray()
        self._state = rangecoder.start(data)
        self._coder = EFFORTS[effort]
        self._model: Any = None
        self._numbers = scalars.new_numbers()
        self._rows = np.zeros(0, np.uint8)  # how alive each row of the last matrix was: a hint for what follows it

    def finish(self) -> bytes:
        """The bytes of everything written."""
        return rangecoder.finish(bytes(self._output), int(self._state[0]), int(self._state[1]))

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

    def levels(self, levels: Levels) -> None:
        """Code an int32 array of any shape, in place when decoding."""
        if self._model is None:
            self._model = self._coder.new_model()
        largest = 0 if self.decoding or levels.size == 0 else int(np.abs(levels.astype(np.int64)).max())
        mean = 0.0 if self.decoding or levels.size == 0 else float(np.abs(levels, dtype=np.float64).mean())
        order = self.number(0 if self.decoding else best_order(levels, self._coder), 1, len(ORDERS) - 1)
        unary = self.number(14 if mean < 4 else 2, 2, 20)
        if levels.size == 0:
            return
        arranged, width = ORDERS[order](levels)
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
