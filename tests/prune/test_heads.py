"""PruneHeads: whole heads go, the least important first, and networks without attention say so."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.products import compared, heads
from lissom.network import Network
from lissom.prune.heads import PruneHeads

from .test_channels import job_of


class Attention(nn.Module):
    def __init__(self, *, default_scale: bool = True) -> None:
        super().__init__()
        self.size, self.default_scale = 4, default_scale
        self.query, self.key, self.value = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16)
        self.out, self.head = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=None if self.default_scale else 0.5)
        return self.head((x + self.out(mixed.transpose(1, 2).flatten(2))).mean(1))


def network() -> Network:
    torch.manual_seed(0)
    return Network(Attention(), (torch.randn(2, 5, 8),))


def test_heads_and_the_channels_within_them_are_told_apart():
    graph = capture(network())
    found = groups(graph)
    assert [group.name for group in heads(graph, found)] == ["query.weight[0] 1/2"]
    assert [group.size for group in heads(graph, found)] == [4]
    assert "query.weight[0] 2/2" in [group.name for group in compared(graph, found)]


def test_the_least_important_heads_go():
    given = network()
    with torch.no_grad():
        for part in (given.module.query, given.module.key, given.module.value):
            part.weight[4:8].mul_(1e-3)
        given.module.out.weight[:, 4:8].mul_(1e-3)
    pruned = PruneHeads(ratio=0.25, importance="l2", reconstruct=False).apply(given, job_of(given))
    assert pruned.module.value.weight.shape == (12, 8)
    (rows,) = (edit.kept for edit in pruned.slices if getattr(edit, "tensor", "") == "query.weight")
    assert rows == (0, 1, 2, 3, *range(8, 16))
    assert torch.allclose(pruned.outputs(*given.example_inputs)[0], given.outputs(*given.example_inputs)[0], atol=1e-4)


def test_one_head_of_a_layer_stays():
    given = network()
    pruned = PruneHeads(ratio=0.9, importance="l2").apply(given, job_of(given))
    assert pruned.module.query.weight.shape == (4, 8)
    assert any("never emptied" in note for note in pruned.notes)


def test_a_network_without_attention_says_so(classifier, job):
    pruned = PruneHeads(ratio=0.5).apply(classifier, job)
    assert pruned.slices == ()
    assert "no attention head could be removed" in pruned.notes
