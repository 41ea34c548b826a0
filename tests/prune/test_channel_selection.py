"""Channel selection: what goes first, and that no more goes than the target asks for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.measure.metrics import divergence
from lissom.network import Network
from lissom.prune.channel_selection import kept, ladders, macs_left, select
from lissom.prune.measured_ladders import measured


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_no_rung_that_went_could_have_stayed(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    widths = random.integers(2, 9, 4) * 4
    layers = [nn.Linear(a, b) for a, b in zip([8, *widths], [*widths, 3], strict=True)]
    graph = capture(Network(nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU()))), (torch.zeros(2, 8),)))
    coupled = groups(graph)
    found = ladders([[group] for group in coupled], {group: random.gamma(0.5, size=group.size) for group in coupled}, 4)
    most = share * graph.macs
    keep = select(graph, found, scope="global", by_macs=True, enough=lambda keep: macs_left(graph, keep) <= most)
    left = {group: int(mask.sum()) for group, mask in keep.items()}
    assert macs_left(graph, keep) <= most or all(count == 4 for count in left.values())
    for ladder in found:
        (group,) = ladder.groups
        count = (group.size - left[group]) // 4
        if count:
            assert macs_left(graph, keep | {group: ladder.gone(count - 1)[0]}) > most


def test_importances_count_for_more_the_fewer_are_left() -> None:
    (group,) = groups(capture(Network(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (torch.zeros(2, 3),))))
    (ladder,) = ladders([[group]], {group: np.ones(4)})
    assert ladder.costs == pytest.approx((4 / 4, 4 / 3, 4 / 2))


def test_measured_ladders_are_told_by_what_removals_do() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    network = Network(module, (torch.zeros(2, 6),))
    graph = capture(network)
    found = [ladder for each in groups(graph) for ladder in ladders([[each]], {each: np.linspace(1, 2, each.size)}, 4)]
    inputs = (torch.randn(64, 6),)
    told = measured(found, network, graph, inputs, "regress")
    for before, after in zip(found, told, strict=True):
        gone = remove(network, graph, kept([before], [1])).network
        moved = divergence(gone.outputs(*inputs), network.outputs(*inputs), "regress").mean()
        assert after.costs[0] == pytest.approx(float(moved), rel=1e-4)
        assert np.allclose(np.divide(after.costs, after.costs[0]), np.divide(before.costs, before.costs[0]))
        assert after.rungs == before.rungs


def test_by_measured_ladders_what_hardly_matters_goes_first() -> None:
    """All indices are said to matter alike, and what removals do tells them apart."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        module[2].weight.mul_(0.01)
        module[2].bias.add_(1.0)
    network = Network(module, (torch.zeros(2, 6),))
    graph = capture(network)
    found = [ladder for each in groups(graph) for ladder in ladders([[each]], {each: np.ones(each.size)}, 4)]
    first, second = measured(found, network, graph, (torch.randn(64, 6),), "regress")
    assert first.costs[0] < 0.1 * second.costs[0]
