"""torch's multi-head attention with heads taken out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom.graph.attention import PrunedAttention
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.network import Network


def all_heads(layer):
    """The same layer, read by our forward."""
    other = nn.MultiheadAttention(8, 4, batch_first=layer.batch_first)
    other.load_state_dict(layer.state_dict())
    other.__class__ = PrunedAttention
    return other.eval()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", ["none", "bool", "float", "per head", "padding", "causal"])
def test_with_all_heads_it_is_torchs_own(batch_first, masks):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 5, 8)
    x = x if batch_first else x.transpose(0, 1)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    given = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.randn(5, 5)},
        "per head": {"attn_mask": torch.randn(12, 5, 5)},
        "padding": {"key_padding_mask": torch.tensor([[False] * 4 + [True]] * 3)},
        "causal": {"attn_mask": causal, "is_causal": True},
    }[masks]
    want, got = layer(x, x, x, **given), all_heads(layer)(x, x, x, **given)
    assert torch.allclose(got[0], want[0], atol=1e-6)
    assert torch.allclose(got[1], want[1], atol=1e-6)


def test_an_encoder_layer_loses_heads_and_runs_fast_or_slow_alike():
    """torch's encoder layer has a fused kernel that takes the width for heads x size; it must not run on a pruned one."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    network = Network(layer, (torch.randn(2, 5, 8),))
    graph = capture(network)
    removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
    assert not removal.refused
    assert isinstance(removal.network.module.self_attn, PrunedAttention)
    assert removal.network.module.self_attn.num_heads == 2
    x = torch.randn(3, 5, 8)
    fast = removal.network.outputs(x)[0]
    slow = removal.network.module.eval()(x.requires_grad_())
    assert torch.allclose(fast, slow, atol=1e-6)
