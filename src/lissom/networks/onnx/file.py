"""Opening an ONNX file without trusting it: parsed and bounded, its versions known, nothing executed."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from lissom.errors import ModelRefused

__all__ = ["OLDEST_OPSET", "open_model", "versions"]

OLDEST_OPSET = 1
"""Whether each operator is known in an old version is the table's to say; from 7 on, all of them are."""


def open_model(model: str | os.PathLike[str] | ModelProto) -> tuple[ModelProto, Path | None]:
    """The parsed model, external data left where it is, and the folder that the data is relative to.

    Raises:
        ModelRefused: there is no such file, or it is not an ONNX model.
    """
    if isinstance(model, ModelProto):
        return _with_graph(model, "the model"), None
    path = Path(model)
    if not path.is_file():
        raise ModelRefused(f"there is no file {path}")
    try:
        parsed = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise ModelRefused(f"{path} is not an ONNX model, or is cut off: export or download it again") from error
    return _with_graph(parsed, str(path)), path.parent


def _with_graph(model: ModelProto, name: str) -> ModelProto:
    if not model.graph.output or not model.opset_import:
        raise ModelRefused(f"{name} holds no ONNX graph (no outputs, or no operator sets): export or download it again")
    return model


def versions(model: ModelProto) -> dict[str, int]:
    """The version of each operator set that the model imports, the default one under ``""``.

    Raises:
        ModelRefused: the default set is older or newer than what the reader knows.
    """
    found = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    default = found.get("", newest)
    if not OLDEST_OPSET <= default <= newest:
        raise ModelRefused(
            f"the model uses operator set {default}, and lissom reads {OLDEST_OPSET} to {newest}: convert it with "
            "onnx.version_converter.convert_version"
        )
    return found


def domain_of(domain: str) -> str:
    """The domain's one name: the default set goes by two.

    >>> domain_of("ai.onnx")
    ''
    """
    return "" if domain == "ai.onnx" else domain
