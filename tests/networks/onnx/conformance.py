"""The ONNX project's node tests: which ones count, and whether the reader passes one."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from lissom.networks.onnx import read_module
from lissom.networks.onnx.operators.dtypes import DTYPES

LISTED = tomllib.loads((Path(__file__).parent / "not_passed.toml").read_text())


@cache
def node_tests() -> dict[str, Any]:
    """The node tests on tensors of floats, integers and booleans, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return {test.name: test for test in found if _plain(test.model)}


def counted() -> list[str]:
    """The names of the tests that count: without Loop, Scan and random outputs."""
    return sorted(name for name in node_tests() if name not in LISTED["left_out"])


def passes(name: str) -> str:
    """Empty where the reader passes the test, else what went wrong in one line."""
    test = node_tests()[name]
    try:
        module = read_module(test.model)
        for inputs, expected in test.data_sets:
            with torch.no_grad():
                found = module(*map(to_tensor, inputs))
            compare(found if isinstance(found, tuple) else (found,), expected, test.rtol, test.atol)
    except Exception as error:  # noqa: BLE001 (whatever goes wrong is the result)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def compare(found: Sequence[Tensor], expected: Sequence[Any], rtol: float, atol: float) -> None:
    """Assert equal shapes, types and values."""
    for tensor, reference in zip(found, expected, strict=False):
        wanted = to_tensor(reference)
        assert tensor.dtype == wanted.dtype, f"dtype {tensor.dtype}, and the test wants {wanted.dtype}"
        assert tensor.shape == wanted.shape, f"shape {list(tensor.shape)}, and the test wants {list(wanted.shape)}"
        np.testing.assert_allclose(_comparable(tensor), _comparable(wanted), rtol=rtol, atol=atol)


def to_tensor(value: Any) -> Tensor:
    """A test's value, an array or a TensorProto, as a tensor."""
    array = np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _comparable(tensor: Tensor) -> np.ndarray[Any, Any]:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def _plain(model: ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return all(value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in DTYPES for value in values)
