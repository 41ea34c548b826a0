"""Norms over channels that are partly gone: what zeros in those channels would give, through edits, export and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.deploy import deploy, verify
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.narrow_norms import NarrowGroupNorm, NarrowLayerNorm, NarrowRMSNorm
from lissom.graph.slicing import remove
from lissom.graph.structure import apply_structure
from lissom.network import Network


class OwnLayerNorm(nn.LayerNorm):
    """A user's own, which moves the channels about before torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1)).flip(1)


def stream(norm: nn.Module, *, channels_first: bool = False) -> Network:
    """A residual stream of 8 channels that only a norm stands behind."""

    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kind = nn.Conv1d if channels_first else nn.Linear
            shape = {"kernel_size": 1} if channels_first else {}
            self.into, self.inner, self.out = kind(3, 8, **shape), kind(8, 8, **shape), kind(8, 2, **shape)
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            return self.out(self.norm(x + self.inner(self.norm(x))))

    torch.manual_seed(0)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return Network(Stream(), (torch.randn(2, 3, 5) if channels_first else torch.randn(2, 5, 3),))


CASES = {
    "layer": (lambda: nn.LayerNorm(8), False, NarrowLayerNorm),
    "layer without bias": (lambda: nn.LayerNorm(8, bias=False), False, NarrowLayerNorm),
    "a user's layer": (lambda: OwnLayerNorm(8), False, NarrowLayerNorm),
    "root mean square": (lambda: nn.RMSNorm(8), False, NarrowRMSNorm),
    "one group": (lambda: nn.GroupNorm(1, 8), True, NarrowGroupNorm),
    "two groups": (lambda: nn.GroupNorm(2, 8), True, NarrowGroupNorm),
}


def narrowed(case: str, keep=lambda size: np.arange(size) % 4 != 1) -> tuple[Network, Network]:
    make, channels_first, _ = CASES[case]
    network = stream(make(), channels_first=channels_first)
    graph = capture(network)
    chosen = [group for group in groups(graph) if group.name in ("into.weight[0]", "into.weight[0] 2/2")]
    removal = remove(network, graph, {group: keep(group.size) for group in chosen})
    assert removal.removed, removal.refused
    return network, removal.network


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_zeros_would_give(case):
    network, sliced = narrowed(case)
    assert isinstance(sliced.module.norm, CASES[case][2])
    kept = next(edit.kept for edit in sliced.slices if edit.tensor == "norm.weight")
    gone = [place for place in range(8) if place not in kept]
    masked = edits.copy(network).module
    with torch.no_grad():
        for name in ("into.weight", "into.bias", "inner.weight", "inner.bias", "norm.weight", "norm.bias"):
            if (tensor := dict(masked.named_parameters()).get(name)) is not None:
                tensor[gone] = 0
        masked.inner.weight[:, gone] = 0
        masked.out.weight[:, gone] = 0
    x = network.example_inputs[0]
    assert torch.allclose(sliced.outputs(x)[0], masked.eval()(x), atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_slicing_twice_applying_afresh_and_attaching_edits_agree(case):
    network, sliced = narrowed(case)
    x = network.example_inputs[0]
    graph = capture(sliced)
    again = remove(sliced, graph, {group: np.arange(group.size) != 0 for group in groups(graph)}).network
    make, channels_first, _ = CASES[case]
    fresh = apply_structure(stream(make(), channels_first=channels_first).module, again.slices)
    fresh.load_state_dict(again.module.state_dict())
    assert torch.allclose(fresh.eval()(x), again.outputs(x)[0], atol=1e-6)
    edited = edits.copy(again)
    edits.attach(edited.module, "norm.weight", mask=torch.ones_like(again.module.norm.weight, dtype=torch.bool))
    assert torch.allclose(edits.copy(edited).outputs(x)[0], again.outputs(x)[0], atol=1e-6)
    fresh.train()(x).sum().backward()
    assert fresh.norm.weight.grad.shape == again.module.norm.weight.shape


def test_a_norm_that_carries_an_edit_is_narrowed_too():
    network = edits.copy(stream(nn.LayerNorm(8)))
    edits.attach(network.module, "norm.weight", mask=torch.ones(8, dtype=torch.bool))
    graph = capture(network)
    (group,) = (group for group in groups(graph) if group.name == "into.weight[0]")
    sliced = remove(network, graph, {group: np.arange(8) < 5}).network
    plain = stream(nn.LayerNorm(8))
    graph = capture(plain)
    (group,) = (group for group in groups(graph) if group.name == "into.weight[0]")
    want = remove(plain, graph, {group: np.arange(8) < 5}).network
    x = plain.example_inputs[0]
    assert torch.allclose(sliced.outputs(x)[0], want.outputs(x)[0], atol=1e-6)
    assert torch.allclose(Network(edits.bake(edits.copy(sliced).module), (x,)).outputs(x)[0], want.outputs(x)[0], atol=1e-6)


@pytest.mark.parametrize("case", ["layer", "two groups"])
def test_it_exports_with_parity(case):
    _, sliced = narrowed(case)
    shape = sliced.example_inputs[0].shape[1:]
    assert verify(deploy(sliced), sliced, [(torch.randn(32, *shape),)]).max_relative <= 1e-4


def test_a_norm_without_weights_still_fixes_its_axis():
    graph = capture(stream(nn.LayerNorm(8, elementwise_affine=False)))
    assert groups(graph) == ()
