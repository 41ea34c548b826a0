"""The walk meets every layer in order, with the inputs that it really gets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lissom.calibrate.layers import Layer
from lissom.calibrate.walk import Walk
from lissom.network import Network


class Mixed(nn.Module):
    """Padding, strides, groups, a layer that is called twice, and a bare matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(6, 6, (3, 1), groups=3, padding="same", dilation=(1, 1))
        self.line = nn.Conv1d(6, 8, 3, padding=2, dilation=2)
        self.twice = nn.Linear(8, 8)
        self.free = nn.Parameter(torch.randn(8, 5))
        self.shift = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.first(x))))
        x = self.line(x.flatten(2)).transpose(1, 2)
        return self.twice(torch.tanh(self.twice(x))) @ self.free + self.shift


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network(Mixed(), (torch.randn(2, 4, 8, 8),))


def test_layers_come_in_order_with_the_inputs_and_outputs_of_each(network: Network) -> None:
    batches = [(torch.randn(3, 4, 8, 8),), (torch.randn(2, 4, 8, 8),)]
    found = []
    for layer in Walk(network, batches).layers():
        weight = dict(network.parameters())[layer.name]
        rows = layer.rows(weight.detach())
        assert torch.equal(layer.weight(rows, weight.detach()), weight)
        chosen = torch.randperm(layer.positions(1))
        x, y = layer.inputs(1, chosen), layer.outputs(1, chosen)
        assert len(chosen) == y.shape[1] == layer.walk.value(layer.node, 1).numel() // (y.shape[0] * y.shape[2])
        product = x @ rows.transpose(1, 2)
        if layer.bias is not None and not layer.bias_comes_after:
            product = product + dict(network.parameters())[layer.bias].reshape(layer.groups, 1, -1)
        torch.testing.assert_close(product, y, rtol=1e-4, atol=1e-5)
        found.append((layer.name, layer.bias, layer.groups))
    assert found == [
        ("first.weight", "first.bias", 1), ("grouped.weight", "grouped.bias", 3), ("line.weight", "line.bias", 1),
        ("twice.weight", "twice.bias", 1), ("twice.weight", "twice.bias", 1), ("free", "shift", 1),
    ]  # fmt: skip


def test_a_replaced_weight_changes_what_follows_and_nothing_is_kept_too_long(network: Network) -> None:
    batches = [(torch.randn(3, 4, 8, 8),)]
    walk = Walk(network, batches)
    for layer in walk.layers():
        assert len(walk.values(0)) <= 2
        if layer.name == "first.weight":
            walk.replace("first.weight", torch.zeros(6, 4, 3, 3))
        if layer.name == "grouped.weight":
            bias = network.module.first.bias.detach().relu().reshape(1, 6, 1, 1)
            assert torch.allclose(layer.inputs(0, torch.arange(layer.positions(0))).amax(), bias.max())


def test_a_layer_knows_the_running_mean_that_is_taken_from_its_outputs_alone() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    walk = Walk(Network(module, (torch.randn(2, 2, 8, 8),)), [(torch.randn(3, 2, 8, 8),)])
    assert walk.layer_names() == {"0.weight", "3.weight"}
    assert [layer.centre for layer in walk.layers()] == ["1.running_mean", None]
    again = walk.again([(torch.randn(3, 2, 8, 8),)])
    outputs = []
    for layer in again.layers():
        if layer.centre is not None:
            again.replace(layer.centre, torch.full((4,), 100.0))
        else:
            outputs.append(layer.inputs(0, torch.arange(4)))
    assert not outputs[0].any()


def test_batches_that_wait_in_files_give_the_same(network: Network) -> None:
    batches = [(torch.randn(20, 4, 16, 16),) for _ in range(3)]
    walks = [Walk(network, batches, room) for room in (0, 10**9)]
    for layers in zip(*(walk.layers() for walk in walks), strict=True):
        for batch in range(3):
            chosen = torch.arange(layers[0].positions(batch))
            for read in (Layer.inputs, Layer.outputs):
                spilled, held = (read(layer, batch, chosen) for layer in layers)
                torch.testing.assert_close(spilled, held)
        for walk, layer in zip(walks, layers, strict=True):
            weight = dict(network.parameters())[layer.name].detach()
            walk.replace(layer.name, weight.sign() * weight.abs().mean())
            if layer.bias is not None:
                shift = torch.ones(len(dict(network.parameters())[layer.bias]))
                layer.move(layer.bias, dict(network.parameters())[layer.bias].detach() + shift, shift)


def test_outputs_that_are_known_move_with_their_bias(network: Network) -> None:
    batches = [(torch.randn(3, 4, 8, 8),), (torch.randn(2, 4, 8, 8),)]
    moved, plain = Walk(network, batches), Walk(network, batches)
    for layer, fresh in zip(moved.layers(), plain.layers(), strict=True):
        if layer.bias is None or layer.name == "twice.weight":
            continue
        chosen = [torch.arange(layer.positions(batch)) for batch in range(2)]
        before = layer.outputs(0, chosen[0])  # the other batch has not come so far
        old = dict(network.parameters())[layer.bias].detach()
        for each in (layer, fresh):
            each.move(layer.bias, old + 1, torch.ones(len(old)))
        for batch in range(2):
            torch.testing.assert_close(layer.outputs(batch, chosen[batch]), fresh.outputs(batch, chosen[batch]))
        if not layer.bias_comes_after:
            torch.testing.assert_close(layer.outputs(0, chosen[0]), before + 1)
