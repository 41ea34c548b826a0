"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from lissom.errors import DeployFailed
from lissom.runtimes.base import Array, FixedBatch, Model, Parts

__all__ = ["OnnxRuntimeSession", "open_onnxruntime", "profile_onnxruntime"]

KERNEL = "_kernel_time"
WARM_UP = 10
FAILURES = (
    errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf, errors.NoSuchFile, errors.NotImplemented,
    errors.RuntimeException, errors.EPFail,
)  # fmt: skip


class OnnxRuntimeSession(FixedBatch):
    """A file opened in ONNX Runtime."""

    def __init__(self, session: onnxruntime.InferenceSession, label: str, constants: Mapping[str, Array] | None = None) -> None:
        super().__init__([value.shape[0] if value.shape else None for value in session.get_inputs()])
        self.session = session
        self._label = label
        self._constants = constants  # the session reads them where they are
        self.input_names: tuple[str, ...] = tuple(value.name for value in session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(value.name for value in session.get_outputs())

    def _run(self, arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[Array, ...]:
        try:
            return tuple(self.session.run(None, dict(zip(self.input_names, arrays, strict=True))))
        except (*FAILURES, ValueError) as error:
            shapes = ", ".join(f"{array.dtype} {list(array.shape)}" for array in arrays)
            raise DeployFailed(f"{self._label} does not run on {shapes}: {_first_line(error)}") from error


def open_onnxruntime(model: Model | Parts, *, threads: int = 1, optimize: bool = True) -> OnnxRuntimeSession:
    """Open an ONNX file in ONNX Runtime on the CPU (see :func:`lissom.runtimes.open_file`)."""
    options = _options(threads)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    constants: Mapping[str, Array] = {}
    if isinstance(model, Parts):
        constants, model = model.constants, model.data
        options.add_external_initializers(
            list(constants), [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in constants.values()]
        )
    data = model if isinstance(model, bytes) else os.fspath(model)
    label = "the file" if isinstance(data, bytes) else data
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return OnnxRuntimeSession(session, label, constants)
    except FAILURES as error:
        raise DeployFailed(f"ONNX Runtime cannot open {label}: {_first_line(error)}") from error


def profile_onnxruntime(
    model: bytes, arrays: Sequence[np.ndarray[Any, Any]], *, threads: int = 1, calls: int = 40
) -> dict[str, list[float]]:
    """Seconds of every call, for each node of the graph that ONNX Runtime made of a file, by the node's name.

    Args:
        model: The bytes of an ONNX file.
        arrays: One per input.
        threads: How many threads a call may use.
        calls: How many calls are kept, after a few to warm up.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        opened = OnnxRuntimeSession(onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]), "the file")
        for _ in range(WARM_UP + calls):
            opened(*arrays)
        events = json.loads(Path(opened.session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            taken.setdefault(event["name"].removesuffix(KERNEL), []).append(event["dur"] * 1e-6)
    return {name: seconds[-calls:] for name, seconds in taken.items()}


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
