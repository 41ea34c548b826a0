"""The quantized graph as a network: it answers as its file does, and 4 bits are stored and computed as they are declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from lissom import edits
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.departure import with_outputs
from lissom.deploy.fold import fold_batch_norm
from lissom.deploy.pipeline import plain
from lissom.deploy.quantized_graph import float_twin, quantize_graph, return_weights, wide_weights
from lissom.errors import UsageError
from lissom.grids import Affine
from lissom.network import Network
from lissom.runtimes import open_file


def _quantized(made: Network, batch: Any, types: str, **fields: Any) -> Network:
    settings = Deploy(precision="int8", target="onnxruntime-cpu", types=types, ranges="mse", **fields)
    return quantize_graph(plain(made, settings), settings, [batch(made, 64)])


@pytest.mark.parametrize("types", ["U8S8", "S8S8", "U8S4", "U4S4"])
def test_the_network_answers_as_its_file_run_node_by_node(types: str, network: Any, batch: Any) -> None:
    quantized = _quantized(network("residual"), batch, types)
    wide = wide_weights(quantized)
    for name in edits.selected(quantized.module):
        bits = 8 if name in wide else int(types[-1])
        weight = edits.value(quantized.module, name)
        edits.attach(quantized.module, name, grid=Affine.fit(weight, bits=bits, channel_axis=0))
    deployed = deploy(quantized)
    onnx.checker.check_model(deployed.model, full_check=True)
    inputs = batch(quantized, 40, seed=3)[0]
    written = open_file(deployed.to_bytes(), optimize=False)(inputs.numpy())[0]
    np.testing.assert_allclose(quantized.outputs(inputs)[0].numpy(), written, atol=np.abs(written).max() * 0.02)
    assert verify(deployed, quantized, [batch(quantized, 64, seed=4)]).kind == "integer"


def test_a_channel_that_is_all_but_switched_off_leaves_room_for_its_bias() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with torch.no_grad():
        module[0].weight[2] *= 1e-5
        module[0].bias[2] = -30.0
    quantized = _quantized(Network(module, (torch.zeros(1, 3, 8, 8),)), lambda made, n: (torch.randn(n, 3, 8, 8),), "U8S8")
    for name in edits.selected(quantized.module):
        edits.attach(quantized.module, name, grid=Affine.fit(edits.value(quantized.module, name), bits=8, channel_axis=0))
    deployed = deploy(quantized)
    second = [node for node in deployed.model.graph.node if node.op_type == "QuantizeLinear"][1]
    hidden = with_outputs(deployed.model, [second.output[0]]).SerializeToString()
    inputs = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
    levels = open_file(hidden)(inputs)[1][:, 2].astype(int)
    assert levels.min() == levels.max()  # in 32 bits that wrap around, the dead channel takes many values


def test_biases_are_whole_steps_of_the_sums_that_the_runtime_adds_them_to() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 2, 3))
    quantized = _quantized(Network(module, (torch.zeros(1, 8, 8, 8),)), lambda made, n: (torch.randn(n, 8, 8, 8),), "U8S8")
    model = deploy(quantized).model
    second = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][1]
    hidden = with_outputs(model, [second.output[0]]).SerializeToString()
    inputs = np.random.default_rng(0).normal(size=(64, 8, 8, 8)).astype(np.float32)
    differ = open_file(hidden)(inputs)[1] != open_file(hidden, optimize=False)(inputs)[1]
    assert differ.mean() < 1e-3  # where the runtime rounds the biases by itself, one level in a hundred differs


def test_the_float_twin_has_no_rounding_and_the_present_weights(network: Any, batch: Any) -> None:
    made = network("residual")
    quantized = _quantized(made, batch, "U8S8")
    inputs = batch(made, 8, seed=3)
    torch.testing.assert_close(float_twin(quantized).outputs(*inputs)[0], made.outputs(*inputs)[0], rtol=1e-4, atol=1e-4)
    name = edits.selected(quantized.module)[0]
    with torch.no_grad():
        edits.latent(quantized.module, name).mul_(2)
    assert torch.equal(edits.value(float_twin(quantized).module, name), edits.value(quantized.module, name))


def test_four_bit_weights_take_half_a_byte_and_the_first_and_last_layer_a_whole_one(network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu", types="U8S4"), [batch(made, 64)])
    kinds = {t.name.partition(".folded")[0]: t.data_type for t in deployed.model.graph.initializer if "weight.levels" in t.name}
    assert kinds == {
        "first.0": TensorProto.INT8, "depthwise.1": TensorProto.INT4, "last.0": TensorProto.INT4,
        "head.weight.levels": TensorProto.INT8,
    }  # fmt: skip
    levels = [tensor for tensor in deployed.parts()[1].values() if hasattr(tensor, "levels")]
    assert len(levels) == 5  # four weights, and the bias of the linear layer


def test_four_bit_activations_have_sixteen_values(network: Any, batch: Any) -> None:
    made = network("residual")
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu", types="U4S4"), [batch(made, 64)])
    types = {t.name: t.data_type for t in deployed.model.graph.initializer}
    pairs = [node for node in deployed.model.graph.node if node.op_type == "QuantizeLinear"]
    narrow = [node for node in pairs if types[node.input[2]] == TensorProto.UINT4]
    assert len(pairs) == 4
    assert len(narrow) == 2  # what the first and the last layer read has 8 bits
    with pytest.raises(UsageError, match="takes S8S8"):
        deploy(made, Deploy(precision="int8", target="tensorrt", types="U4S4"), [batch(made, 8)])


def test_trained_weights_return_to_the_users_module_by_name(network: Any, batch: Any) -> None:
    made = network("residual")
    quantized = _quantized(made, batch, "U8S8")
    folded = edits.copy(made)
    fold_batch_norm(folded.module, folded.example_inputs)
    with torch.no_grad():
        for _, parameter in edits.weights(quantized.module):
            if parameter.ndim:
                parameter.mul_(1.5)
    back = return_weights(quantized, folded)
    for name, parameter in edits.weights(folded.module):
        torch.testing.assert_close(edits.value(back.module, name), parameter.detach() * 1.5)


def test_scales_learn_by_themselves(network: Any, batch: Any) -> None:
    """Each activation has a scale of its own, whose gradient is that of learned step sizes."""
    quantized = _quantized(network("residual"), batch, "U4S4")
    scales = {name: p for name, p in quantized.module.named_parameters() if name.endswith("scale")}
    assert len(scales) == 4
    quantized.module(*batch(quantized, 16)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs() > 0) for p in scales.values())
