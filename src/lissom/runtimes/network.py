"""A file as a Network: its module runs the file in a runtime, so what measures networks measures files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto
from torch import Tensor, nn

from lissom.errors import ModelRefused
from lissom.network import Network, Preprocess, Source
from lissom.networks.preprocess import METADATA_KEY, read_preprocess
from lissom.runtimes.base import Session, open_file

__all__ = ["file_network"]

LENGTH = 16  # of axes whose length is open, in the example inputs


class FileModule(nn.Module):
    """Runs a session; it has no parameters."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the file for these inputs."""
        return tuple(torch.from_numpy(np.array(output)) for output in self.session(*(tensor.numpy() for tensor in inputs)))


def file_network(
    file: Path | bytes, *, preprocess: Preprocess | None = None, runtime: str = "onnxruntime", threads: int = 1, name: str = ""
) -> Network:
    """The network that runs ``file`` as it is.

    Args:
        file: An ONNX file, or its bytes.
        preprocess: How uint8 images become its inputs; None for what its metadata says.
        runtime: What runs it.
        threads: How many threads one call may use.
        name: How reports call it; by default its path.

    Raises:
        ModelRefused: it is no ONNX file.
        DeployFailed: the runtime cannot run it.
    """
    if isinstance(file, Path) and not file.is_file():
        raise ModelRefused(f"no model file {file}: check the path")
    try:
        model = onnx.load_model_from_string(file) if isinstance(file, bytes) else onnx.load(file, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelRefused(f"{name or file!s} is not a readable ONNX file: export it again") from error
    given = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in given]
    known = {entry.key: entry.value for entry in model.metadata_props}
    if preprocess is None and METADATA_KEY in known:
        preprocess = read_preprocess(json.loads(known[METADATA_KEY]))
    return Network(
        FileModule(open_file(file, runtime, threads=threads)),
        tuple(_example(value) for value in inputs),
        input_names=tuple(value.name for value in inputs),
        output_names=tuple(value.name for value in model.graph.output),
        dynamic_axes={value.name: _open_axes(value) for value in inputs},
        preprocess=preprocess,
        source=Source("onnx", name or str(file)),
    )


def _example(value: Any) -> Tensor:
    """Zeros of the input's shape: a batch of two where it is open."""
    kind = value.type.tensor_type
    lengths = [axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else LENGTH for axis in kind.shape.dim]
    if lengths and not kind.shape.dim[0].dim_value:
        lengths[0] = 2
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type or TensorProto.FLOAT)
    return torch.from_numpy(np.zeros(lengths, dtype))


def _open_axes(value: Any) -> dict[int, str]:
    axes = value.type.tensor_type.shape.dim
    return {number: axis.dim_param or f"axis_{number}" for number, axis in enumerate(axes) if number and not axis.dim_value}
