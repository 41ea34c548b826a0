"""int8-dynamic and float16 files: near the network, small, and whole in the archive."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lissom import codec
from lissom.deploy import Deploy, deploy, skeleton, verify
from lissom.errors import UsageError
from lissom.network import Network
from lissom.networks.onnx import read_onnx
from lissom.quantize.weights import QuantizeWeights
from lissom.runtimes import open_file

JOB: Any = SimpleNamespace(seed=0)


@pytest.fixture
def made() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128, bias=False), nn.ReLU(), nn.Linear(128, 10))
    return Network(module, (torch.randn(2, 7, 64),))


@pytest.mark.parametrize(("precision", "share", "error"), [("int8-dynamic", 0.3, 2e-3), ("float16", 0.55, 1e-6)])
def test_near_small_and_whole(precision: Any, share: float, error: float, made: Network) -> None:
    deployed = deploy(made, Deploy(precision=precision, target="onnxruntime-cpu"))
    onnx.checker.check_model(deployed.model, full_check=True)
    inputs = torch.randn(50, 7, 64)
    got, expected = open_file(deployed.to_bytes())(inputs.numpy())[0], made.outputs(inputs)[0].numpy()
    assert np.square(got - expected).sum() < error * np.square(expected).sum()
    assert len(deployed.to_bytes()) < share * len(deploy(made).to_bytes())
    assert verify(deployed, made, [(inputs,)]).kind == "integer"
    archive = codec.decode(deployed.archive("fast"))
    assert archive.network is not None
    assert skeleton.restore(archive.network, archive.tensors) == deployed.to_bytes()


def test_four_bits_in_blocks_take_the_kernel_for_them(made: Network) -> None:
    rounded = QuantizeWeights(bits=4, granularity=32, include=("*.weight",)).apply(made, JOB)
    deployed = deploy(rounded, Deploy(precision="int8-dynamic", target="onnxruntime-cpu"))
    onnx.checker.check_model(deployed.model)
    kernels = [node for node in deployed.model.graph.node if node.op_type == "MatMulNBits"]
    assert [(node.domain, len(node.input)) for node in kernels] == [("com.microsoft", 3)] * 3
    inputs = torch.randn(50, 7, 64)
    got, expected = open_file(deployed.to_bytes())(inputs.numpy())[0], rounded.outputs(inputs)[0].numpy()
    assert np.square(got - expected).sum() < 1e-3 * np.square(expected).sum()
    assert len(deployed.to_bytes()) < 0.25 * len(deploy(made).to_bytes())
    assert verify(deployed, rounded, [(inputs,)]).kind == "integer"
    read = read_onnx(deployed.model)  # which computes with the activations as they are
    torch.testing.assert_close(read.outputs(inputs)[0].numpy(), expected, rtol=1e-4, atol=1e-4)
    archive = codec.decode(deployed.archive("fast"))
    assert archive.network is not None
    assert skeleton.restore(archive.network, archive.tensors) == deployed.to_bytes()


def test_other_targets_and_other_blocks_decode_in_float(made: Network) -> None:
    for bits, group, target in ((4, 32, "openvino"), (8, 32, "onnxruntime-cpu"), (4, 8, "onnxruntime-cpu")):
        rounded = QuantizeWeights(bits=bits, granularity=group, include=("2.weight",)).apply(made, JOB)
        deployed = deploy(rounded, Deploy(precision="int8-dynamic", target=target))
        assert {"MatMulNBits"}.isdisjoint(node.op_type for node in deployed.model.graph.node)


def test_convolutions_stay_float_and_are_named(network: Any) -> None:
    deployed = deploy(network("residual"), Deploy(precision="int8-dynamic", target="onnxruntime-cpu"))
    assert "left in float: 3 Conv" in deployed.notes[-1]
    assert sum(node.op_type == "MatMulInteger" for node in deployed.model.graph.node) == 1


def test_what_cannot_be_dynamic_is_refused() -> None:
    with pytest.raises(UsageError, match="no matrix product"):
        deploy(Network(nn.Conv2d(3, 4, 1), (torch.zeros(2, 3, 4, 4),)), Deploy(precision="int8-dynamic"))
    with pytest.raises(UsageError, match="has no int8-dynamic"):
        deploy(Network(nn.Linear(3, 4), (torch.zeros(2, 3),)), Deploy(precision="int8-dynamic", target="tensorrt"))


def test_a_weight_too_large_for_half_stays_whole() -> None:
    made = Network(nn.Linear(3, 4), (torch.zeros(2, 3),))
    with torch.no_grad():
        made.module.weight[0, 0] = 1e6
    types = {t.name: t.data_type for t in deploy(made, Deploy(precision="float16")).model.graph.initializer}
    assert types == {"weight": onnx.TensorProto.FLOAT, "bias.half": onnx.TensorProto.FLOAT16}
