"""Operators of scikit-learn's exporters, which no node test covers, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from lissom.networks.onnx import read_module


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("Scaler", {"offset": [0.5, -1.0, 2.0], "scale": [2.0, 3.0, 0.25]}),
        ("Scaler", {"offset": [0.5], "scale": [2.0]}),
        ("Normalizer", {"norm": "MAX"}),
        ("Normalizer", {"norm": "L1"}),
        ("Normalizer", {"norm": "L2"}),
        ("Binarizer", {"threshold": 0.25}),
    ],
)
def test_scalers_answer_as_onnx_runtime_does(name: str, attributes: dict[str, object]) -> None:
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 3]) for end in ("x", "y")]
    graph = helper.make_graph([helper.make_node(name, ["x"], ["y"], domain="ai.onnx.ml", **attributes)], "g", ends[:1], ends[1:])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=8)
    x = np.abs(np.random.default_rng(0).normal(size=(5, 3))).astype(np.float32)
    x[2] = 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(read_module(model)(torch.from_numpy(x)).numpy(), session.run(None, {"x": x})[0], rtol=1e-6)
