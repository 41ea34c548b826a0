"""OpenVINO on the CPU; an extra."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino

from lissom.errors import DeployFailed
from lissom.runtimes.base import Array, FixedBatch, Model

__all__ = ["OpenVinoSession", "open_openvino"]


class OpenVinoSession(FixedBatch):
    """A file compiled by OpenVINO."""

    def __init__(self, compiled: Any) -> None:
        self._shapes = [port.get_partial_shape() for port in compiled.inputs]
        super().__init__([shape[0].get_length() if len(shape) and shape[0].is_static else None for shape in self._shapes])
        self._taken: set[tuple[tuple[int, ...], ...]] = set()
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs
        self.input_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.inputs)
        self.output_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.outputs)

    def _run(self, arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[Array, ...]:
        self._check([array.shape for array in arrays])
        found = self._request.infer(dict(zip(self.input_names, arrays, strict=True)))
        return tuple(np.array(found[port]) for port in self._outputs)

    def _check(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Refuse shapes that the file does not take: OpenVINO computes something with some of them."""
        if tuple(shapes) in self._taken:
            return
        fits = [given.compatible(openvino.PartialShape(list(shape))) for given, shape in zip(self._shapes, shapes, strict=True)]
        if not all(fits):
            taken = ", ".join(str(shape) for shape in self._shapes)
            raise DeployFailed(
                f"OpenVINO does not run the file on {', '.join(str(list(shape)) for shape in shapes)}: it takes {taken}"
            )
        self._taken.add(tuple(shapes))


def open_openvino(model: Model, *, threads: int = 1, optimize: bool = True) -> OpenVinoSession:
    """Open an ONNX file in OpenVINO on the CPU (see :func:`lissom.runtimes.open_file`)."""
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:
        read = core.read_model(io.BytesIO(model) if isinstance(model, bytes) else os.fspath(model))
        return OpenVinoSession(
            core.compile_model(read, "CPU", settings if optimize else {**settings, "SNIPPETS_MODE": "DISABLE"})
        )
    except RuntimeError as error:
        raise DeployFailed(f"OpenVINO cannot open the file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
