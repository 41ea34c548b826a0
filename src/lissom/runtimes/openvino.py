"""OpenVINO on the CPU; an extra."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import openvino

from lissom.errors import DeployFailed
from lissom.runtimes.base import Array, Model

__all__ = ["OpenVinoSession", "open_openvino"]


class OpenVinoSession:
    """A file compiled by OpenVINO."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = compiled.outputs
        self.input_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.inputs)
        self.output_names: tuple[str, ...] = tuple(port.get_any_name() for port in compiled.outputs)

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> tuple[Array, ...]:
        """Run once."""
        found = self._request.infer(dict(zip(self.input_names, arrays, strict=True)))
        return tuple(np.array(found[port]) for port in self._outputs)


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
        raise DeployFailed(f"OpenVINO cannot open the file: {str(error).splitlines()[0][:300]}") from error
