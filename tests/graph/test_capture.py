"""The captured graph: what it prints and answers, what it refuses, and what it costs to make."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lissom import edits
from lissom.errors import ModelRefused
from lissom.graph.capture import capture
from lissom.graph.cost import cost, layer_costs, macs, parameters
from lissom.graph.groups import groups
from lissom.network import Network


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        return self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def network():
    torch.manual_seed(0)
    return Network(Small(), (torch.randn(2, 3, 6, 6),))


def test_each_node_knows_its_module_its_shapes_and_its_cost():
    graph = capture(network())
    conv = graph.of_module("conv")[0]
    assert (conv.operator, conv.shapes, conv.macs) == ("conv2d", ((2, 8, 6, 6),), 8 * 36 * 27)
    assert (conv.parameters, conv.weight_bytes) == (("conv.weight", "conv.bias"), 4 * (8 * 27 + 8))
    assert conv.activation_bytes == 4 * 8 * 36
    assert graph.macs == 8 * 36 * 27 + 40
    assert "conv2d" in str(graph)
    assert graph[conv.name] is conv


def test_cost_by_layer_adds_up():
    found = cost(network())
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert found.parameters == sum(parameter.numel() for parameter in Small().parameters())
    assert [layer.module for layer in layer_costs(capture(network()))][:2] == ["conv", "norm"]


def test_cost_with_positions_taken_out_is_the_cost_of_the_sliced_network():
    import numpy as np

    from lissom.graph.slicing import remove

    given = network()
    graph = capture(given)
    (group,) = groups(graph)
    mask = np.arange(8) < 3
    sliced = remove(given, graph, {group: mask}).network
    assert macs(graph, {group.atom: mask}) == capture(sliced).macs
    assert parameters(graph, {group.atom: mask}) == sum(each.numel() for each in sliced.module.parameters())


def test_the_network_is_left_in_the_mode_it_was_in():
    given = network()
    given.module.train()
    capture(given)
    assert given.module.training


def test_a_network_with_edits_is_captured_under_the_users_names():
    given = edits.copy(network())
    edits.attach(given.module, "conv.weight", mask=torch.rand(8, 3, 3, 3) > 0.5)
    graph = capture(given)
    assert graph.of_module("conv")[0].parameters == ("conv.weight", "conv.bias")
    assert edits.edit_of(given.module, "conv.weight") is not None


def test_control_flow_that_depends_on_data_is_refused_with_the_way_out():
    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(3, 2)

        def forward(self, x):
            return self.out(x) if x.sum() > 0 else self.out(-x)

    with pytest.raises(ModelRefused, match=r"torch.where"):
        capture(Network(Depends(), (torch.randn(2, 3),)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_captured(dtype):
    layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    graph = capture(Network(layers, (torch.randn(2, 3).to(dtype),)))
    assert graph.macs == 20


def test_a_module_called_with_different_shapes_counts_every_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x).mean((2, 3)) + self.conv(x[:, :, ::2]).mean((2, 3))

    graph = capture(Network(Twice(), (torch.randn(2, 3, 4, 4),)))
    assert [node.macs for node in graph.of_module("conv")] == [9 * 16, 9 * 8]


class Chosen(nn.Module):
    """Rows that data chooses: how many there are is known to nobody before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.head(torch.relu(self.first(x)))
        return rows[torch.nonzero(rows[:, 0] > 0).squeeze(1)]


def test_a_length_that_only_data_gives_does_not_stop_the_capture() -> None:
    network = Network(Chosen(), (torch.randn(4, 4),))
    assert [group.size for group in groups(capture(network))] == [8]


def test_a_module_is_captured_again_only_after_it_changed() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    network = Network(module, (torch.randn(4, 4),))
    graph = capture(network)
    assert capture(network.noting("a note")) is graph
    module.train()
    assert capture(network) is graph
    module[1] = nn.GELU()
    assert [node.operator for node in capture(network)] == ["linear", "gelu", "linear"]
    module[2] = nn.Linear(8, 5)
    assert capture(network).shapes["2.weight"] == (5, 8)
