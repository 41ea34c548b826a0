"""Sizes in a network's own attributes: found, followed, told apart from numbers that are equal by accident."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.graph.structure import structure_from_json, structure_to_json
from lissom.grids import Affine
from lissom.network import Network, Resize, Scale


def halved(network: Network):
    graph = capture(network)
    return remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})


def test_a_size_that_code_only_checks_follows():
    class Checked(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.channels, self.out = channels, nn.Linear(channels, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[-1] != self.channels:
                raise ValueError(f"{self.channels} channels expected")
            return self.out(x)

    removal = halved(Network(nn.Sequential(nn.Linear(2, 6), Checked(6)), (torch.randn(2, 2),)))
    assert not removal.refused
    assert Resize("1", "channels", 3) in removal.network.slices
    assert removal.network.module[1].channels == 3


def test_sizes_read_off_another_shape_go_together():
    class Gate(nn.Module):
        """Splits by the width of its input, which an axis of its own weight must follow."""

        def __init__(self) -> None:
            super().__init__()
            self.wide, self.out = nn.Linear(6, 13), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            width = x.shape[-1]
            left, right, gate = self.wide(x).split([width, width, 1], -1)
            return self.out(left * torch.sigmoid(right) * gate)

    removal = halved(Network(nn.Sequential(nn.Linear(2, 6), Gate()), (torch.randn(2, 2),)))
    assert not removal.refused
    assert removal.network.module[1].wide.weight.shape == (7, 3)


class Compared(nn.Module):
    """Attention that divides by the root of the size of a head, each time that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 8
        self.query, self.key, self.value, self.out = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).view(*x.shape[:2], 2, self.size).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(self.size), -1)
        return self.out((scores @ value).transpose(1, 2).flatten(2))


def test_queries_are_scaled_where_code_divides_by_the_root_of_a_size():
    torch.manual_seed(0)
    network = Network(Compared(), (torch.randn(2, 5, 4),))
    removal = halved(network)
    scales = [edit for edit in removal.network.slices if isinstance(edit, Scale)]
    assert {edit.tensor for edit in scales} == {"query.weight", "query.bias"}
    assert all(math.isclose(edit.factor, math.sqrt(0.5)) for edit in scales)
    assert removal.network.module.size == 4
    assert structure_from_json(structure_to_json(removal.network.slices)) == removal.network.slices


def test_a_grid_is_never_scaled():
    torch.manual_seed(0)
    network = edits.copy(Network(Compared(), (torch.randn(2, 5, 4),)))
    edits.attach(network.module, "query.weight", grid=Affine.fit(edits.latent(network.module, "query.weight"), bits=8))
    removal = halved(network)
    assert "query.bias[0] 2/2" in removal.refused
    assert not any(isinstance(edit, Scale) for edit in removal.network.slices)
