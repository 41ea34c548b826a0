"""Each hard topology: the exact positions that go together, and the sliced network against the masked one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lissom.graph.capture import capture
from lissom.graph.groups import fixed_axes, groups, reachable
from lissom.graph.slicing import remove
from lissom.network import Network


class Function(nn.Module):
    """Named layers and a function over them."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def concatenation():
    def run(m, x):
        return m.out(torch.cat([m.left(x), m.right(x)], 1))

    layers = {"left": nn.Conv2d(2, 3, 1), "right": nn.Conv2d(2, 4, 1), "out": nn.Conv2d(7, 5, 3)}
    return (
        Function(run, **layers),
        (torch.randn(2, 2, 4, 4),),
        {
            "left.weight[0]": [("left.weight", 0, (1,)), ("left.bias", 0, (1,)), ("out.weight", 1, (1,))],
            "right.weight[0]": [("right.weight", 0, (1,)), ("right.bias", 0, (1,)), ("out.weight", 1, (4,))],
        },
    )


def split():
    def run(m, x):
        left, right = m.into(x).split([m.first, m.second], 1)
        return m.left(left), m.right(right)

    layers = {"into": nn.Linear(2, 8), "left": nn.Linear(3, 2), "right": nn.Linear(5, 2)}
    return (
        Function(run, first=3, second=5, **layers),
        (torch.randn(2, 2),),
        {
            "into.weight[0] 1/2": [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("left.weight", 1, (1,))],
            "into.weight[0] 2/2": [("into.weight", 0, (4,)), ("into.bias", 0, (4,)), ("right.weight", 1, (1,))],
        },
    )


def chunk():
    def run(m, x):
        left, right = m.into(x).chunk(2, 1)
        return m.out(left * torch.sigmoid(right))

    return (
        Function(run, into=nn.Linear(2, 8), out=nn.Linear(4, 3)),
        (torch.randn(2, 2),),
        {
            "into.weight[0] 2/2": [("into.weight", 0, (1, 5)), ("into.bias", 0, (1, 5)), ("out.weight", 1, (1,))],
        },
    )


def residual():
    def run(m, x):
        x = m.first(x)
        return m.out(x + m.second(F.relu(x)))

    layers = {"first": nn.Linear(2, 4), "second": nn.Linear(4, 4), "out": nn.Linear(4, 3)}
    return Function(run, **layers), (torch.randn(2, 2),), {
        "first.weight[0]": [
            ("first.weight", 0, (1,)), ("first.bias", 0, (1,)), ("second.weight", 0, (1,)), ("second.weight", 1, (1,)),
            ("second.bias", 0, (1,)), ("out.weight", 1, (1,)),
        ],
    }  # fmt: skip


def flatten():
    layers = {"conv": nn.Conv2d(2, 3, 3, padding=1), "out": nn.Linear(3 * 4, 5)}
    return (
        Function(lambda m, x: m.out(m.conv(x).flatten(1)), **layers),
        (torch.randn(2, 2, 2, 2),),
        {
            "conv.weight[0]": [("conv.weight", 0, (1,)), ("conv.bias", 0, (1,)), ("out.weight", 1, (4, 5, 6, 7))],
        },
    )


def depthwise():
    layers = {
        "into": nn.Conv2d(2, 4, 1),
        "deep": nn.Conv2d(4, 8, 3, groups=4),
        "norm": nn.BatchNorm2d(8),
        "out": nn.Conv2d(8, 3, 1),
    }
    return Function(lambda m, x: m.out(m.norm(m.deep(m.into(x)))), **layers), (torch.randn(2, 2, 4, 4),), {
        "into.weight[0]": [
            ("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("deep.weight", 0, (2, 3)), ("deep.bias", 0, (2, 3)),
            ("norm.weight", 0, (2, 3)), ("norm.bias", 0, (2, 3)), ("out.weight", 1, (2, 3)),
            ("norm.running_mean", 0, (2, 3)), ("norm.running_var", 0, (2, 3)),
        ],
        "deep.weight[0] 2/2": [
            ("deep.weight", 0, (1, 3, 5, 7)), ("deep.bias", 0, (1, 3, 5, 7)), ("norm.weight", 0, (1, 3, 5, 7)),
            ("norm.bias", 0, (1, 3, 5, 7)), ("out.weight", 1, (1, 3, 5, 7)), ("norm.running_mean", 0, (1, 3, 5, 7)),
            ("norm.running_var", 0, (1, 3, 5, 7)),
        ],
    }  # fmt: skip


def grouped():
    layers = {"into": nn.Conv1d(2, 6, 1), "wide": nn.Conv1d(6, 4, 3, groups=2), "out": nn.Conv1d(4, 3, 1)}
    return Function(lambda m, x: m.out(m.wide(m.into(x))), **layers), (torch.randn(2, 2, 5),), {
        "into.weight[0] 1/2": [("into.weight", 0, (3, 4, 5)), ("into.bias", 0, (3, 4, 5)), ("wide.weight", 0, (2, 3)),
                               ("wide.bias", 0, (2, 3)), ("out.weight", 1, (2, 3))],
        "into.weight[0] 2/2": [("into.weight", 0, (1, 4)), ("into.bias", 0, (1, 4)), ("wide.weight", 1, (1,))],
        "wide.weight[0] 2/2": [("wide.weight", 0, (1, 3)), ("wide.bias", 0, (1, 3)), ("out.weight", 1, (1, 3))],
    }  # fmt: skip


def shuffle():
    def run(m, x):
        x = m.into(x)
        x = x.reshape(x.shape[0], 2, -1).transpose(1, 2).reshape(x.shape[0], -1)
        return m.out(x)

    return (
        Function(run, into=nn.Linear(2, 6), out=nn.Linear(6, 3)),
        (torch.randn(2, 2),),
        {
            "into.weight[0] 1/2": [("into.weight", 0, (3, 4, 5)), ("into.bias", 0, (3, 4, 5)), ("out.weight", 1, (1, 3, 5))],
            "into.weight[0] 2/2": [("into.weight", 0, (1, 4)), ("into.bias", 0, (1, 4)), ("out.weight", 1, (2, 3))],
        },
    )


def pixel_shuffle():
    layers = {"into": nn.Conv2d(2, 8, 1), "out": nn.Conv2d(2, 3, 1)}
    return (
        Function(lambda m, x: m.out(F.pixel_shuffle(m.into(x), 2)), **layers),
        (torch.randn(2, 2, 3, 3),),
        {
            "into.weight[0] 1/3": [("into.weight", 0, (4, 5, 6, 7)), ("into.bias", 0, (4, 5, 6, 7)), ("out.weight", 1, (1,))],
        },
    )


def shared():
    layer = nn.Linear(4, 4)
    layers = {"into": nn.Linear(2, 4), "twice": layer, "out": nn.Linear(4, 3)}
    return Function(lambda m, x: m.out(m.twice(torch.tanh(m.twice(m.into(x))))), **layers), (torch.randn(2, 2),), {
        "into.weight[0]": [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("twice.weight", 0, (1,)), ("twice.weight", 1, (1,)),
                           ("twice.bias", 0, (1,)), ("out.weight", 1, (1,))],
    }  # fmt: skip


def tied_embedding():
    embedding = nn.Embedding(9, 4)
    head = nn.Linear(4, 9, bias=False)
    head.weight = embedding.weight
    return (
        Function(lambda m, x: m.head(m.embed(x)), embed=embedding, head=head),
        (torch.randint(9, (2, 3)),),
        {
            "embed.weight[1]": [("embed.weight", 1, (1,))],
        },
    )


def unused():
    layers = {"into": nn.Linear(2, 4), "spare": nn.Linear(4, 4), "out": nn.Linear(4, 3)}
    return (
        Function(lambda m, x: m.out(m.into(x)), **layers),
        (torch.randn(2, 2),),
        {
            "into.weight[0]": [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("out.weight", 1, (1,))],
        },
    )


def group_norm():
    layers = {"into": nn.Conv2d(2, 6, 1), "norm": nn.GroupNorm(3, 6), "out": nn.Conv2d(6, 3, 1)}
    return Function(lambda m, x: m.out(m.norm(m.into(x))), **layers), (torch.randn(2, 2, 4, 4),), {
        "into.weight[0] 1/2": [("into.weight", 0, (2, 3)), ("into.bias", 0, (2, 3)), ("norm.weight", 0, (2, 3)),
                               ("norm.bias", 0, (2, 3)), ("out.weight", 1, (2, 3))],
    }  # fmt: skip


def lstm():
    def run(m, x):
        return m.out(m.cell(x)[0])

    layers = {"cell": nn.LSTM(3, 2, batch_first=True), "out": nn.Linear(2, 3)}
    return Function(run, **layers), (torch.randn(2, 4, 3),), {
        "cell.weight_ih_l0[0] 2/2": [
            ("cell.weight_ih_l0", 0, (1, 3, 5, 7)), ("cell.weight_hh_l0", 0, (1, 3, 5, 7)), ("cell.weight_hh_l0", 1, (1,)),
            ("cell.bias_ih_l0", 0, (1, 3, 5, 7)), ("cell.bias_hh_l0", 0, (1, 3, 5, 7)), ("out.weight", 1, (1,)),
        ],
    }  # fmt: skip


def bidirectional_gru():
    layers = {"cell": nn.GRU(3, 2, num_layers=2, bidirectional=True, batch_first=True), "out": nn.Linear(4, 3)}
    return Function(lambda m, x: m.out(m.cell(x)[0]), **layers), (torch.randn(2, 4, 3),), {}


def keras_layout():
    """A kernel kept [height, width, in, out], permuted when it is used, as Keras does it."""

    def run(m, x):
        return m.out(F.conv2d(x, m.kernel.permute(3, 2, 0, 1)).mean((2, 3)))

    module = Function(run, out=nn.Linear(4, 3))
    module.kernel = nn.Parameter(torch.randn(3, 3, 2, 4))
    return module, (torch.randn(2, 2, 4, 4),), {"kernel[3]": [("kernel", 3, (1,)), ("out.weight", 1, (1,))]}


class Attention(nn.Module):
    """Grouped-query attention: four query heads, two key heads, rotary halves."""

    def __init__(self):
        super().__init__()
        self.heads, self.head_dim, self.key_heads = 4, 6, 2
        self.query, self.key, self.value = nn.Linear(8, 24), nn.Linear(8, 12), nn.Linear(8, 12)
        self.out = nn.Linear(24, 8)
        self.scale = 6**-0.5

    def forward(self, x):
        shape = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (each(x).view(shape).transpose(1, 2) for each in (self.query, self.key, self.value))
        query, key = (
            torch.cat([-half[..., 3:], half[..., :3]], -1) + half if self.head_dim == 6 else half for half in (query, key)
        )
        key, value = (each.repeat_interleave(2, dim=1) for each in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        return self.out(mixed.transpose(1, 2).reshape(*x.shape[:2], -1))


def grouped_queries():
    return Attention(), (torch.randn(2, 5, 8),), {
        "query.weight[0] 1/3": [
            *((f"query.{part}", 0, tuple(range(12, 24))) for part in ("weight", "bias")),
            *((f"{name}.{part}", 0, tuple(range(6, 12))) for name in ("key", "value") for part in ("weight", "bias")),
            ("out.weight", 1, tuple(range(12, 24))),
        ],
    }  # fmt: skip


def torch_attention():
    def run(m, x):
        return m.attend(x, x, x, need_weights=False)[0]

    return Function(run, attend=nn.MultiheadAttention(8, 4, batch_first=True)), (torch.randn(2, 5, 8),), {
        "attend.in_proj_weight[0] 2/3": [
            ("attend.in_proj_weight", 0, (2, 3, 10, 11, 18, 19)), ("attend.in_proj_bias", 0, (2, 3, 10, 11, 18, 19)),
            ("attend.out_proj.weight", 1, (2, 3)),
        ],
    }  # fmt: skip


TOPOLOGIES = [
    concatenation, split, chunk, residual, flatten, depthwise, grouped, shuffle, pixel_shuffle, shared, tied_embedding, unused,
    group_norm, lstm, bidirectional_gru, keras_layout, grouped_queries, torch_attention,
]  # fmt: skip


def network_of(topology):
    torch.manual_seed(0)
    module, inputs, expected = topology()
    return Network(module, inputs), expected


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.__name__)
def test_exact_positions_of_each_topology(topology):
    network, expected = network_of(topology)
    found = {group.name: group for group in groups(capture(network))}
    for name, positions in expected.items():
        assert sorted(found[name].at([1])) == sorted(positions)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.__name__)
def test_halving_everything_is_proved_or_refused_by_name(topology):
    """Slicing half of every group gives the masked network; what cannot is named, and the rest goes all the same."""
    network, _ = network_of(topology)
    graph = capture(network)
    found = groups(graph)
    keep = {group: np.arange(group.size) % 2 == 0 for group in found}
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    removal = remove(network, graph, keep)
    assert removal.removed
    assert set(removal.refused) == {group.name for group in found} - {group.name for group in removal.removed}
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name])
    masked = Network(network.module, network.example_inputs)
    for group in removal.removed:
        for tensor, axis, positions in group.at(np.flatnonzero(~keep[group])):
            if tensor in graph.trainable:
                with torch.no_grad():
                    network.module.get_parameter(tensor).index_fill_(axis, torch.tensor(positions), 0)
    for got, want in zip(removal.network.outputs(*network.example_inputs), masked.outputs(*network.example_inputs), strict=True):
        assert torch.allclose(got, want, atol=1e-5 * float(want.abs().max()) + 1e-7)


def test_only_the_attention_of_other_sizes_is_refused_in_the_grouped_queries():
    network, _ = network_of(grouped_queries)
    graph = capture(network)
    removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
    assert "query.weight[0] 1/3" in {group.name for group in removal.removed}  # the key heads go
    # The sizes of the rotary halves are written in the forward as the number 3, which no attribute holds.
    assert any("query" in name for name in removal.refused)


def test_what_is_fixed_says_why():
    network, _ = network_of(flatten)
    reasons = {(fixed.tensor, fixed.axis): fixed.why for fixed in fixed_axes(capture(network))}
    assert reasons["conv.weight", 1] == "input x has it" or "input" in reasons["conv.weight", 1]
    assert "output of the network" in reasons["out.weight", 0]
    assert "kernel" in reasons["conv.weight", 2]


def test_an_unknown_operator_freezes_only_what_touches_it():
    def run(m, x):
        return m.out(torch.linalg.qr(m.into(x)).R), m.other_out(m.other(x))

    layers = {"into": nn.Linear(3, 4), "out": nn.Linear(4, 2), "other": nn.Linear(3, 4), "other_out": nn.Linear(4, 2)}
    graph = capture(Network(Function(run, **layers), (torch.randn(5, 3),)))
    assert graph.unknown == ("linalg_qr",)
    assert [group.name for group in groups(graph)] == ["other.weight[0]"]


def test_reachable_counts_every_parameter_of_a_group_once():
    graph = capture(Network(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), (torch.randn(2, 3),)))
    assert reachable(graph, groups(graph)) == pytest.approx((12 + 4 + 8) / 26)
    assert reachable(graph, []) == 0
