"""Stem: an image's first integer convolution reads padded channels, and answers the same to the bit."""

import numpy as np
import pytest
import torch
from torch import nn

from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.editing import Editor
from lissom.deploy.stem import widen_stem
from lissom.network import Network
from lissom.runtimes import open_file


def images(channels: int, count: int = 8) -> torch.Tensor:
    return torch.randn(count, channels, 12, 12, generator=torch.Generator().manual_seed(0))


def network(channels: int, kernel: int = 3) -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(channels, 16, kernel, 2), nn.ReLU(), nn.Conv2d(16, 4, 1), nn.Flatten())
    return Network(module, (images(channels, 2),))


def int8(made: Network, target: str, types: str = "U8S8"):
    settings = Deploy(precision="int8", target=target, types=types, ranges="minmax")
    return deploy(made, settings, [(images(made.example_inputs[0].shape[1], 64),)])


@pytest.mark.parametrize("types", ["U8S8", "U8U8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_answers_are_the_same_to_the_bit_and_the_weights_stay_as_they_are(channels: int, types: str) -> None:
    made = network(channels)
    deployed = int8(made, "onnxruntime-cpu", types)
    assert [node.op_type for node in deployed.model.graph.node].count("Pad") == 2
    held = {tensor.name: tuple(tensor.dims) for tensor in deployed.model.graph.initializer}
    assert held["0.weight.levels"] == (16, channels, 3, 3)
    plain = Editor(deployed.model)
    padded = {node.output[0]: node.input[0] for node in plain.nodes if node.op_type == "Pad"}
    for node in plain.nodes:
        for position, name in enumerate(node.input):
            node.input[position] = padded.get(name, name)
    shown = images(channels, 32).numpy()
    np.testing.assert_array_equal(
        open_file(deployed.to_bytes())(shown)[0], open_file(plain.close().SerializeToString())(shown)[0]
    )
    assert verify(deployed, made, [(shown,)]).holds


@pytest.mark.parametrize(
    ("channels", "kernel", "target"),
    [(4, 3, "onnxruntime-cpu"), (3, 1, "onnxruntime-cpu"), (1, 5, "onnxruntime-cpu"), (3, 3, "openvino")],
)
def test_what_needs_no_padding_has_none(channels: int, kernel: int, target: str) -> None:
    deployed = int8(network(channels, kernel), target)
    assert "Pad" not in [node.op_type for node in deployed.model.graph.node]


def test_a_float_graph_is_left_alone() -> None:
    assert widen_stem(Editor(deploy(network(3)).model), 4) == 0
