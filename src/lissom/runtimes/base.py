"""Runtime and Session: what lissom needs of anything that runs a file, and the table of those it knows."""

from __future__ import annotations

import importlib
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lissom.errors import MissingExtra, UsageError

__all__ = ["RUNTIMES", "Array", "FixedBatch", "Model", "Parts", "Runtime", "Session", "available", "open_file"]

Array = npt.NDArray[Any]
Model = str | os.PathLike[str] | bytes
"""A file, or the bytes of one."""


@dataclass(frozen=True)
class Parts:
    """An ONNX file whose large constants are arrays beside it: ONNX Runtime reads them where they are, and copies none.

    Args:
        data: The bytes of the file, in which these constants are declared as external data.
        constants: Their values by name; they must not change while the file is open.
    """

    data: bytes
    constants: Mapping[str, Array]


class Session(Protocol):
    """An opened network: called with one array per input, it gives one array per output."""

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> tuple[Array, ...]:
        """Run once."""


class FixedBatch(ABC):
    """The part of a session that gives a file which fixes its batch its samples in batches of that length.

    Args:
        lengths: The first length of each input; None (or a name) where it is open.
    """

    def __init__(self, lengths: Sequence[object]) -> None:
        fixed = set(lengths)
        first = next(iter(lengths), None)
        self._batch = first if isinstance(first, int) and len(fixed) == 1 else None

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> tuple[Array, ...]:
        """The outputs for all samples.

        Raises:
            DeployFailed: the file does not run on these arrays.
        """
        if self._batch is None or not arrays or len(arrays[0]) == self._batch:
            return self._run(arrays)
        from lissom.network import in_pieces  # brings torch, which looking at the table of runtimes does not need

        pieces = [self._run(piece) for piece in in_pieces(arrays, self._batch)]
        return tuple(np.concatenate(parts)[: len(arrays[0])] for parts in zip(*pieces, strict=True))

    @abstractmethod
    def _run(self, arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[Array, ...]:
        """Run once, on a batch that the file takes."""


@dataclass(frozen=True)
class Runtime:
    """Something that runs files.

    Args:
        module: The Python package that it is.
        opener: ``module:function`` of lissom's that opens a file in it, imported when it is first needed.
        extra: The extra of lissom's that installs it; empty where it comes with lissom.
    """

    module: str
    opener: str
    extra: str = ""


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime("onnxruntime", "lissom.runtimes.onnxruntime:open_onnxruntime"),
    "openvino": Runtime("openvino", "lissom.runtimes.openvino:open_openvino", extra="openvino"),
    "torch": Runtime("torch", "lissom.runtimes.torch:open_torch"),
}


def available() -> tuple[str, ...]:
    """Names of the runtimes that are installed here."""
    return tuple(name for name, runtime in RUNTIMES.items() if importlib.util.find_spec(runtime.module) is not None)


def open_file(model: Any, runtime: str = "onnxruntime", *, threads: int = 1, optimize: bool = True) -> Session:
    """Open a file in a runtime.

    Args:
        model: A path or the bytes of an ONNX file; for ``"torch"``, a network or a module as well; for ``"onnxruntime"``,
            :class:`Parts` as well.
        runtime: A name of the table.
        threads: How many threads one call may use.
        optimize: Whether the runtime may rewrite the graph; False runs the operators one by one, as written.

    Raises:
        UsageError: there is no such runtime.
        MissingExtra: it is not installed.
        DeployFailed: it cannot run the file.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"no runtime is called {runtime!r}; there are {', '.join(RUNTIMES)}")
    found = RUNTIMES[runtime]
    if importlib.util.find_spec(found.module) is None:
        raise MissingExtra(found.module, extra=found.extra, purpose=f"running files in {runtime}")
    module, _, name = found.opener.partition(":")
    opener: Callable[..., Session] = getattr(importlib.import_module(module), name)
    return opener(model, threads=threads, optimize=optimize)
