"""int8 graphs: near the float network, small, in integer kernels, and with the levels that were there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from lissom import codec, edits
from lissom.codec.tensors import Quantized
from lissom.deploy import Deploy, deploy, skeleton, verify
from lissom.errors import DataRefused, UsageError
from lissom.grids import Affine
from lissom.network import Network
from lissom.runtimes import open_file


def _error(data: bytes, made: Network, inputs: torch.Tensor) -> float:
    got, expected = open_file(data)(inputs.numpy())[0], made.outputs(inputs)[0].numpy()
    return float(np.square(got - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize("ranges", ["auto", "minmax", "percentile", "std", "mse", "kl"])
def test_outputs_stay_near_the_float_networks(ranges: str, network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", ranges=ranges, target="onnxruntime-cpu"), [batch(made, 64)])
    onnx.checker.check_model(deployed.model, full_check=True)
    assert _error(deployed.to_bytes(), made, batch(made, 50, seed=3)[0]) < 0.02
    assert verify(deployed, made, [batch(made, 128, seed=4)]).kind == "integer"


def test_every_convolution_and_the_linear_layer_are_integers_and_no_clip_is_left(network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [batch(made, 32)])
    kinds = [node.op_type for node in deployed.model.graph.node]
    assert "Clip" not in kinds
    producers = {name: node for node in deployed.model.graph.node for name in node.output}
    weighted = [node for node in deployed.model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(weighted) == 4
    for node in weighted:
        assert all(producers[name].op_type == "DequantizeLinear" for name in node.input[:2])
    assert deployed.notes == ()


@pytest.mark.parametrize("target", ["this-machine", "portable", "tensorrt", "openvino"])
def test_targets_have_their_own_forms(target: str, network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", target=target), [batch(made, 32)])
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in deployed.model.graph.initializer}
    for node in deployed.model.graph.node:
        if node.op_type == "QuantizeLinear" and target == "tensorrt":
            assert held[node.input[2]].dtype == np.int8
            assert held[node.input[2]] == 0
    if target == "portable":
        assert all(np.abs(value.astype(int)).max() <= 63 for name, value in held.items() if name.endswith("weight.levels"))
    assert _error(deployed.to_bytes(), made, batch(made, 50, seed=3)[0]) < 0.05


def test_a_weight_on_an_integer_grid_keeps_its_very_levels(network: Any, batch: Any) -> None:
    made = network("residual")
    edits.attach(made.module, "head.weight", grid=Affine.fit(made.module.head.weight, bits=4, channel_axis=0))
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [batch(made, 32)])
    stored = edits.tensors(made.module)["head.weight"]
    assert isinstance(stored, Quantized)
    _, tensors = deployed.parts()
    found = tensors["head.weight"]
    assert isinstance(found, Quantized)
    np.testing.assert_array_equal(found.levels, stored.levels)
    np.testing.assert_array_equal(found.dense(), stored.dense())


def test_layers_that_are_kept_float_and_operators_without_kernels_are_named(network: Any, batch: Any) -> None:
    made = network("residual")
    settings = Deploy(precision="int8", target="onnxruntime-cpu", keep_float=("first.0.*",))
    deployed = deploy(made, settings, [batch(made, 32)])
    assert "left in float: 1 Conv (the first is first.0)" in deployed.notes[0]
    assert "first.0.folded.weight" in {tensor.name for tensor in deployed.model.graph.initializer}


def test_recurrent_layers_stay_float_and_the_rest_is_quantized(network: Any, batch: Any) -> None:
    made = network("recurrent")
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [batch(made, 64)])
    assert "2 LSTM" in deployed.notes[0]
    assert _error(deployed.to_bytes(), made, batch(made, 50, seed=3)[0]) < 0.02


def test_the_archive_of_an_int8_file_gives_it_back(network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [batch(made, 32)])
    archive = codec.decode(deployed.archive("fast"))
    assert archive.network is not None
    assert skeleton.restore(archive.network, archive.tensors) == deployed.to_bytes()


def test_refusals() -> None:
    made = Network(nn.Linear(3, 2), (torch.zeros(2, 3),))
    with pytest.raises(UsageError, match="give calibration inputs"):
        deploy(made, Deploy(precision="int8"))
    with pytest.raises(DataRefused, match="there are none"):
        deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [])
    with pytest.raises(DataRefused, match="NaN"):
        deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [(torch.full((4, 3), torch.nan),)])
    with pytest.raises(UsageError, match="no target is called"):
        deploy(made, Deploy(target="toaster"))
    with pytest.raises(UsageError, match="takes S8S8"):
        deploy(made, Deploy(precision="int8", target="tensorrt", types="U8S8"), [(torch.randn(8, 3),)])
    with pytest.raises(UsageError, match="no operator of this network"):
        deploy(Network(nn.ReLU(), (torch.zeros(2, 3),)), Deploy(precision="int8"), [(torch.randn(8, 3),)])


def test_dead_channels_and_large_biases_survive() -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        module[0].weight[2] = 0
        module[0].bias[2] = 50.0
        module[2].weight[1] *= 1e-12
    made = Network(module, (torch.randn(2, 8),))
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [(torch.randn(64, 8),)])
    assert _error(deployed.to_bytes(), made, torch.randn(50, 8)) < 0.02
