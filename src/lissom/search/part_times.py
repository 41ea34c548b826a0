"""Part times: what a change to a few parts of a network does to its time, told by the parts that changed alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy.typing as npt

from lissom import edits
from lissom.measure.profile import layer_seconds
from lissom.network import Network

__all__ = ["PartTimes"]

Array = npt.NDArray[Any]


class PartTimes:
    """The time of each part of a network, in the network's file in ONNX Runtime, and what changes to parts do to it.

    A part takes a few percent of the network's time, and on a machine that does other things as well, the whole time varies
    by as much. So only the parts that changed are compared, each in its place among the others.

    Args:
        original: The network.
        file: Its file.
        sample: One sample, as the file takes it.
    """

    def __init__(self, original: Network, file: bytes, sample: Sequence[Array]) -> None:
        self.sample = sample
        self.parts = _shapes(original, ())
        self._file = file

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Of each module that holds parameters, in the original's file."""
        return self._seconds_of(self._file)

    def share(self, made: Network, file: bytes) -> float:
        """The share of the original's time that a changed network takes.

        Args:
            made: The network, in which other things stand in the place of some parts.
            file: Its file.
        """
        changed = self.changed(made)
        now = self._seconds_of(file) if changed else {}
        more = sum(now.get(path, 0.0) - self.seconds.get(path, 0.0) for path in changed)
        return 1 + more / sum(self.seconds.values())

    def changed(self, made: Network) -> list[str]:
        """Paths of the parts whose parameters have other names or shapes than in the original."""
        now = _shapes(made, self.parts)
        return [path for path, shapes in self.parts.items() if shapes != now[path]]

    def _seconds_of(self, file: bytes) -> dict[str, float]:
        return layer_seconds(file, self.sample, {path: (path,) for path in self.parts})


def _shapes(network: Network, parts: Collection[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of each module's parameters by name; what stands in the place of one of ``parts`` goes under its path."""
    found: dict[str, dict[str, tuple[int, ...]]] = {path: {} for path in parts}
    for name, parameter in edits.weights(network.module):
        path = name.rpartition(".")[0]
        owner = next((above for above in _above(path) if above in parts), path)
        found.setdefault(owner, {})[name] = tuple(parameter.shape)
    return found


def _above(path: str) -> Iterator[str]:
    """A path, and those of the modules that hold it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
