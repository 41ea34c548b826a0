"""Axis rules: for each operator the exact positions that go together, and the sliced network against the masked one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.rules import rules
from lissom.graph.slicing import difference, remove
from lissom.network import Network

from .test_groups import Function

LINEAR = {"into": nn.Linear(3, 4), "out": nn.Linear(4, 2)}
CONVOLUTION = {"into": nn.Conv2d(2, 4, 1), "out": nn.Conv2d(4, 3, 1)}
CHAIN = [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("out.weight", 1, (1,))]
"""What goes at both ends of a network that keeps its channels between the layers ``into`` and ``out``."""


def between(function, layers=None, **more):
    """A network that applies ``function`` between the layers ``into`` and ``out``."""
    return Function(lambda m, x: m.out(function(m, m.into(x))), **{**(layers or LINEAR), **more})


def over_images(function, **more):
    return between(function, CONVOLUTION, **more)


def weights(shape=(4, 3)):
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(shape))


ROWS, IMAGES, TEXT = torch.randn(2, 5, 3), torch.randn(2, 2, 4, 4), torch.randint(7, (2, 5))
FLAT = ROWS[:, 0]


def by_weight(function, shape, **more):
    """A network that applies ``function`` to a matrix of its own and the input."""
    module = Function(lambda m, x: m.out(function(m, x)), out=nn.Linear(4, 2), **more)
    module.matrix = weights(shape)
    return module


# For each operator: a network, its input, a group, and what goes with the group's index 1.
CASES = {
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 3, 1)), torch.randn(2, 2, 6), "0.weight[0]",
               [("0.weight", 0, (1,)), ("0.bias", 0, (1,)), ("1.weight", 1, (1,))]),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 1)), IMAGES, "0.weight[0]",
               [("0.weight", 0, (1,)), ("0.bias", 0, (1,)), ("1.weight", 1, (1,))]),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.Conv3d(4, 3, 1)), torch.randn(2, 2, 4, 4, 4), "0.weight[0]",
               [("0.weight", 0, (1,)), ("0.bias", 0, (1,)), ("1.weight", 1, (1,))]),
    "conv_transpose1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.ConvTranspose1d(4, 6, 2), nn.Conv1d(6, 3, 1)),
                         torch.randn(2, 2, 6), "1.weight[1]",
                         [("1.weight", 1, (1,)), ("1.bias", 0, (1,)), ("2.weight", 1, (1,))]),
    "conv_transpose2d": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Conv2d(6, 3, 1)),
                         IMAGES, "0.weight[0]", [("0.weight", 0, (1,)), ("0.bias", 0, (1,)), ("1.weight", 0, (1,))]),
    "conv_transpose3d": (lambda: nn.Sequential(nn.ConvTranspose3d(2, 4, 2), nn.Conv3d(4, 3, 1)), torch.randn(2, 2, 3, 3, 3),
                         "0.weight[1]", [("0.weight", 1, (1,)), ("0.bias", 0, (1,)), ("1.weight", 1, (1,))]),
    "grouped transposed": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Conv2d(6, 3, 1)),
                           IMAGES, "0.weight[0] 1/2",
                           [("0.weight", 0, (2, 3)), ("0.bias", 0, (2, 3)), ("1.weight", 0, (2, 3)), ("1.bias", 0, (3, 4, 5)),
                            ("2.weight", 1, (3, 4, 5))]),
    "linear": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), FLAT, "0.weight[0]",
               [("0.weight", 0, (1,)), ("0.bias", 0, (1,)), ("1.weight", 1, (1,))]),
    "matmul": (lambda: by_weight(lambda m, x: x @ m.matrix, (3, 4)), ROWS, "matrix[1]",
               [("matrix", 1, (1,)), ("out.weight", 1, (1,))]),
    "bmm": (lambda: by_weight(lambda m, x: torch.bmm(x, m.matrix.expand(x.shape[0], -1, -1)), (1, 3, 4)), ROWS, "matrix[2]",
            [("matrix", 2, (1,)), ("out.weight", 1, (1,))]),
    "addmm": (lambda: by_weight(lambda m, x: torch.addmm(m.shift, x, m.matrix), (3, 4), shift=weights((4,))), FLAT,
              "shift[0]", [("matrix", 1, (1,)), ("shift", 0, (1,)), ("out.weight", 1, (1,))]),
    "einsum": (lambda: by_weight(lambda m, x: torch.einsum("bti,ij->btj", x, m.matrix), (3, 4)), ROWS, "matrix[1]",
               [("matrix", 1, (1,)), ("out.weight", 1, (1,))]),
    "batch_norm": (lambda: over_images(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(4)), IMAGES, "into.weight[0]",
                   [*CHAIN, ("norm.weight", 0, (1,)), ("norm.bias", 0, (1,)), ("norm.running_mean", 0, (1,)),
                    ("norm.running_var", 0, (1,))]),
    "instance_norm": (lambda: over_images(lambda m, x: m.norm(x), norm=nn.InstanceNorm2d(4, affine=True)), IMAGES,
                      "into.weight[0]", [*CHAIN, ("norm.weight", 0, (1,)), ("norm.bias", 0, (1,))]),
    "layer_norm": (lambda: between(lambda m, x: m.norm(x), norm=nn.LayerNorm(4)), ROWS, "into.weight[0]",
                   [*CHAIN, ("norm.weight", 0, (1,)), ("norm.bias", 0, (1,))]),
    "rms_norm": (lambda: between(lambda m, x: m.norm(x), norm=nn.RMSNorm(4)), ROWS, "into.weight[0]",
                 [*CHAIN, ("norm.weight", 0, (1,))]),
    "group_norm": (lambda: over_images(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 4)), IMAGES, "into.weight[0] 1/2",
                   [("into.weight", 0, (2, 3)), ("into.bias", 0, (2, 3)), ("norm.weight", 0, (2, 3)), ("norm.bias", 0, (2, 3)),
                    ("out.weight", 1, (2, 3))]),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), TEXT, "0.weight[1]",
                  [("0.weight", 1, (1,)), ("1.weight", 1, (1,))]),
    "gru": (lambda: Function(lambda m, x: m.out(m.cell(x)[0]), cell=nn.GRU(3, 2, batch_first=True), out=nn.Linear(2, 3)), ROWS,
            "cell.weight_ih_l0[0] 2/2",
            [("cell.weight_ih_l0", 0, (1, 3, 5)), ("cell.weight_hh_l0", 0, (1, 3, 5)), ("cell.weight_hh_l0", 1, (1,)),
             ("cell.bias_ih_l0", 0, (1, 3, 5)), ("cell.bias_hh_l0", 0, (1, 3, 5)), ("out.weight", 1, (1,))]),
    "stack": (lambda: between(lambda m, x: torch.stack([x, m.other(x)], 1).sum(1), other=nn.Linear(4, 4)), ROWS,
              "into.weight[0]", [*CHAIN, ("other.weight", 0, (1,)), ("other.weight", 1, (1,)), ("other.bias", 0, (1,))]),
    "slice": (lambda: Function(lambda m, x: m.out(m.into(x)[..., 2:]), into=nn.Linear(3, 6), out=nn.Linear(4, 2)), ROWS,
              "into.weight[0] 2/2", [("into.weight", 0, (3,)), ("into.bias", 0, (3,)), ("out.weight", 1, (1,))]),
    "index": (lambda: between(lambda m, x: x[:, torch.tensor([0, 2, 2])]), ROWS, "into.weight[0]", CHAIN),
    "pad": (lambda: over_images(lambda m, x: F.pad(x, (1, 2))), IMAGES, "into.weight[0]", CHAIN),
    "view": (lambda: over_images(lambda m, x: x.view(*x.shape[:2], 16).sum(2)[..., None, None]), IMAGES, "into.weight[0]", CHAIN),
    "reshape": (lambda: Function(lambda m, x: m.out(m.into(x).reshape(x.shape[0], -1)), into=nn.Linear(3, 4),
                                 out=nn.Linear(20, 2)), ROWS, "into.weight[0]",
                [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("out.weight", 1, (1, 5, 9, 13, 17))]),
    "permute": (lambda: Function(lambda m, x: m.out(m.into(x).permute(0, 2, 3, 1)), into=nn.Conv2d(2, 4, 1), out=nn.Linear(4, 3)),
                IMAGES, "into.weight[0]", CHAIN),
    "transpose": (lambda: Function(lambda m, x: m.out(m.into(x).transpose(1, 2)), into=nn.Linear(3, 4), out=nn.Conv1d(4, 3, 1)),
                  ROWS, "into.weight[0]", CHAIN),
    "expand": (lambda: between(lambda m, x: x + m.shift.expand(x.shape[0], -1, -1), shift=weights((1, 1, 4))), ROWS,
               "shift[2]", [("shift", 2, (1,)), *CHAIN]),
    "squeeze": (lambda: over_images(lambda m, x: x.mean((2, 3), keepdim=True).squeeze(-1).unsqueeze(-1)), IMAGES,
                "into.weight[0]", CHAIN),
    "unfold": (lambda: Function(lambda m, x: m.out(F.unfold(m.into(x), 2)), into=nn.Conv2d(2, 4, 1), out=nn.Conv1d(16, 3, 1)),
               IMAGES, "into.weight[0]",
               [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("out.weight", 1, (4, 5, 6, 7))]),
    "channel_shuffle": (lambda: over_images(lambda m, x: F.channel_shuffle(x, 2)), IMAGES, "into.weight[0] 1/2",
                        [("into.weight", 0, (2, 3)), ("into.bias", 0, (2, 3)), ("out.weight", 1, (1, 3))]),
    "pixel_unshuffle": (lambda: Function(lambda m, x: m.out(F.pixel_unshuffle(m.into(x), 2)), into=nn.Conv2d(2, 4, 1),
                                         out=nn.Conv2d(16, 3, 1)), IMAGES, "into.weight[0]",
                        [("into.weight", 0, (1,)), ("into.bias", 0, (1,)), ("out.weight", 1, (4, 5, 6, 7))]),
    "max_pool2d": (lambda: over_images(lambda m, x: F.max_pool2d(x, 2)), IMAGES, "into.weight[0]", CHAIN),
    "avg_pool2d": (lambda: over_images(lambda m, x: F.avg_pool2d(x, 2)), IMAGES, "into.weight[0]", CHAIN),
    "adaptive_avg_pool2d": (lambda: over_images(lambda m, x: F.adaptive_avg_pool2d(x, 1)), IMAGES, "into.weight[0]", CHAIN),
    "interpolate": (lambda: over_images(lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear")), IMAGES,
                    "into.weight[0]", CHAIN),
    "softmax": (lambda: over_images(lambda m, x: x.softmax(-1)), IMAGES, "into.weight[0]", CHAIN),
    "mean": (lambda: over_images(lambda m, x: x.mean((2, 3), keepdim=True)), IMAGES, "into.weight[0]", CHAIN),
    "broadcast": (lambda: over_images(lambda m, x: x * m.gate[:, None, None], gate=weights((4,))), IMAGES, "gate[0]",
                  [("gate", 0, (1,)), *CHAIN]),
    "prelu": (lambda: over_images(lambda m, x: m.slope(x), slope=nn.PReLU(4)), IMAGES, "into.weight[0]",
              [*CHAIN, ("slope.weight", 0, (1,))]),
    "glu": (lambda: Function(lambda m, x: m.out(F.glu(m.into(x))), into=nn.Linear(3, 8), out=nn.Linear(4, 2)), ROWS,
            "into.weight[0] 2/2", [("into.weight", 0, (1, 5)), ("into.bias", 0, (1, 5)), ("out.weight", 1, (1,))]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_exact_positions_and_parity(case):
    make, x, name, expected = CASES[case]
    torch.manual_seed(0)
    network = Network(make(), (x,))
    graph = capture(network)
    assert not graph.unknown
    found = {group.name: group for group in groups(graph)}
    assert sorted(found[name].at([1])) == sorted(expected)

    keep = {found[name]: np.arange(found[name].size) % 2 == 0}
    removal = remove(network, graph, keep)
    assert [group.name for group in removal.removed] == [name], removal.refused
    with torch.no_grad():
        for tensor, axis, positions in found[name].at(np.flatnonzero(~keep[found[name]])):
            if tensor in graph.trainable:
                network.module.get_parameter(tensor).index_fill_(axis, torch.tensor(positions), 0)
    assert difference(removal.network, network) is None


def test_a_group_prints_what_couples_each_member_and_why():
    network = Network(CASES["batch_norm"][0](), (IMAGES,))
    printed = str(groups(capture(network))[0])
    assert printed.splitlines()[0].startswith("into.weight[0]: 4 positions, coupled by ")
    assert any("norm.weight[0]" in line and "batch_norm in norm" in line for line in printed.splitlines())
    assert any("out.weight[1]" in line and "conv2d in out" in line for line in printed.splitlines())


def test_an_operator_is_added_by_one_function(monkeypatch):
    network = Network(between(lambda _, x: torch.special.bessel_j0(x)), (ROWS,))
    graph = capture(network)
    assert (graph.unknown, groups(graph)) == (("special_bessel_j0",), ())
    monkeypatch.setitem(rules, "special_bessel_j0", lambda call: call.axes("self"))
    assert [group.name for group in groups(capture(network))] == ["into.weight[0]"]
