"""Waiting: what batches of calibration data hold while another is looked at, in memory as far as there is room."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["ROOM", "Waiting"]

Key = TypeVar("Key", bound=Hashable)
ROOM = 2**25
"""Bytes of values that wait in memory."""

SMALL = 2**12
"""Bytes below which a value is not worth a file."""


@dataclass(frozen=True)
class _File:
    """A tensor that waits."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor, path: Path) -> _File:
        """Written to a path, over what stands there: new pages come slowly, and old ones go slowly."""
        with path.open("r+b" if path.exists() else "wb", buffering=0) as file:
            left = tensor.contiguous().flatten().view(torch.uint8).numpy().data
            while left:
                left = left[file.write(left) :]
        return cls(path, tensor.dtype, tuple(tensor.shape))


class _Read:
    """A tensor that was read from its file, and knows whether it still is what stands there."""

    def __init__(self, file: _File) -> None:
        self.file, self.tensor = file, torch.empty(file.shape, dtype=file.dtype)
        with file.path.open("rb") as opened:
            opened.readinto(self.tensor.flatten().view(torch.uint8).numpy().data)
        self._version = self._changes()

    def is_still(self, value: Tensor) -> bool:
        """Whether a value is this tensor, unchanged."""
        return value is self.tensor and self._version == self._changes()

    def _changes(self) -> int:
        return self.tensor._version  # noqa: SLF001  # how torch counts changes in place


class Waiting(Generic[Key]):
    """Named values of many batches, of which one is in use at a time.

    When another batch is asked for, the last one stays in memory while there is room for it; else its tensors are written to
    a temporary folder (``TMPDIR`` says where), to be read when they are asked for again. So the memory in use is that of
    one batch and ``room``, however many samples there are. A tensor that has not changed is written once, and files whose
    tensors are gone are written over.

    Args:
        batches: What each batch holds at first. These values stay in memory: whoever gave them holds them anyway.
        room: Bytes of other values that may wait in memory.

    Example:
        >>> waiting = Waiting([{"x": torch.ones(2)}, {"x": torch.zeros(2)}], room=0)
        >>> waiting[0]["y"] = torch.arange(4096.0)
        >>> _ = waiting[1]
        >>> waiting[0]["y"].sum().item()
        8386560.0
    """

    def __init__(self, batches: Iterable[dict[Key, Any]], room: int = ROOM) -> None:
        self._batches = list(batches)
        self._given = {name for batch in self._batches for name in batch}
        self._room, self._taken = room, [0] * len(self._batches)
        self._current = 0
        self._read: dict[Key, _Read] = {}
        self._folder: Path | None = None
        self._files = 0
        self._free: list[Path] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, batch: int) -> dict[Key, Any]:
        """The values of a batch, all in memory until another batch is asked for."""
        if batch != self._current:
            self._taken[batch] = 0
            self._put_away()
            self._current = batch
            for name, value in self._batches[batch].items():
                if isinstance(value, _File):
                    self._read[name] = _Read(value)
                    self._batches[batch][name] = self._read[name].tensor
        return self._batches[batch]

    def names(self) -> list[set[Key]]:
        """The names of what each batch holds."""
        return [set(values) for values in self._batches]

    def discard(self, name: Key) -> None:
        """Forget a value in every batch."""
        for values in self._batches:
            value = values.pop(name, None)
            if isinstance(value, _File):
                self._free.append(value.path)

    def _put_away(self) -> None:
        values, read = self._batches[self._current], self._read
        self._read = {}
        large = {
            name: value
            for name, value in values.items()
            if name not in self._given and isinstance(value, Tensor) and value.nbytes > SMALL
        }
        size = sum(value.nbytes for value in large.values())
        stays = sum(self._taken) + size <= self._room
        self._taken[self._current] = size if stays else 0
        for name, value in () if stays else large.items():
            known = read.get(name)
            if known is not None and known.is_still(value):
                values[name] = read.pop(name).file
            else:
                values[name] = _File.of(value, self._fresh())
        self._free += [left.file.path for left in read.values()]

    def _fresh(self) -> Path:
        if self._free:
            return self._free.pop()
        if self._folder is None:
            self._folder = Path(mkdtemp(prefix="lissom-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files += 1
        return self._folder / str(self._files)
