"""Small ONNX models, made node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

TYPES = {"float": TensorProto.FLOAT, "half": TensorProto.FLOAT16, "int": TensorProto.INT64, "bool": TensorProto.BOOL}


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; names are separated by spaces, a missing input is ``-``."""
    return helper.make_node(kind, [name.strip("-") for name in inputs.split()], outputs.split(), **attributes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Mapping[str, str],
    tensors: Mapping[str, np.ndarray],
    opset: int = 17,
) -> ModelProto:
    """A model of these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, TYPES[kind], list(shape)) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TYPES[kind], None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(made: ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime answers, node by node: its fused kernel for 4-bit products rounds the activations as well."""
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def attention(width: int = 8, heads: int = 2) -> ModelProto:
    """Self-attention whose shapes are computed from the input's, as exporters write it."""
    size = width // heads
    nodes = [
        node("MatMul", "x wq", "q"), node("MatMul", "x wk", "k"), node("MatMul", "x wv", "v"),
        node("Shape", "x", "shape"), node("Gather", "shape zero", "batch"), node("Gather", "shape one", "length"),
        node("Unsqueeze", "batch axis", "batch1"), node("Unsqueeze", "length axis", "length1"),
        node("Concat", "batch1 length1 heads size", "split", axis=0),
        node("Reshape", "q split", "q4"), node("Reshape", "k split", "k4"), node("Reshape", "v split", "v4"),
        node("Transpose", "q4", "qh", perm=[0, 2, 1, 3]), node("Transpose", "k4", "kh", perm=[0, 2, 3, 1]),
        node("Transpose", "v4", "vh", perm=[0, 2, 1, 3]),
        node("MatMul", "qh kh", "scores"), node("Div", "scores root", "scaled"), node("Softmax", "scaled", "weights", axis=-1),
        node("MatMul", "weights vh", "mixed"), node("Transpose", "mixed", "back", perm=[0, 2, 1, 3]),
        node("Reshape", "back joined", "flat"), node("MatMul", "flat wo", "y"),
    ]  # fmt: skip
    tensors = {
        "wq": random(width, width, seed=1), "wk": random(width, width, seed=2), "wv": random(width, width, seed=3),
        "wo": random(width, 4, seed=4), "zero": np.array(0), "one": np.array(1), "axis": np.array([0]),
        "heads": np.array([heads]), "size": np.array([size]), "root": np.array(size**0.5, np.float32),
        "joined": np.array([0, 0, width]),
    }  # fmt: skip
    return model(nodes, {"x": ("float", ["batch", "length", width])}, {"y": "float"}, tensors)


def convolutional(opset: int = 17) -> ModelProto:
    """Two convolutions, batch norm, a pool, a linear layer; the batch is open."""
    nodes = [
        node("Conv", "x c1.weight c1.bias", "a", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("BatchNormalization", "a bn.scale bn.bias bn.mean bn.var", "b"), node("Relu", "b", "c"),
        node("Conv", "c c2.weight", "d", pads=[1, 1, 1, 1]), node("Clip", "d low high", "e"),
        node("GlobalAveragePool", "e", "f"), node("Flatten", "f", "g"), node("Gemm", "g fc.weight fc.bias", "y", transB=1),
    ]  # fmt: skip
    tensors = {
        "c1.weight": random(8, 3, 3, 3, seed=1), "c1.bias": random(8, seed=2), "bn.scale": np.ones(8, np.float32),
        "bn.bias": random(8, seed=3), "bn.mean": random(8, seed=4), "bn.var": np.full(8, 2, np.float32),
        "c2.weight": random(16, 8, 3, 3, seed=5), "low": np.array(0, np.float32), "high": np.array(6, np.float32),
        "fc.weight": random(5, 16, seed=6), "fc.bias": random(5, seed=7),
    }  # fmt: skip
    return model(nodes, {"x": ("float", ["batch", 3, 9, 9])}, {"y": "float"}, tensors, opset)
