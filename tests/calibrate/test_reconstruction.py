"""Reconstruction: layers refitted to the original by least squares, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom import edits
from lissom.calibrate.reconstruction import reconstruct
from lissom.graph.structure import apply_structure
from lissom.grids import Affine
from lissom.network import Network, Scale, Slice


def pruned_from(network: Network, *structure) -> Network:
    found = edits.copy(network, slices=(*network.slices, *structure))
    apply_structure(found.module, structure)
    return found


def linear() -> tuple[Network, tuple[Slice, ...]]:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), (torch.zeros(2, 4),))
    kept = (0, 2, 3, 5)
    return network, (Slice("0.weight", 0, kept), Slice("0.bias", 0, kept), Slice("1.weight", 1, kept))


def test_what_the_kept_units_can_express_is_restored():
    """Four of six hidden units of a linear network span its four inputs, so nothing at all is lost."""
    network, structure = linear()
    pruned = pruned_from(network, *structure)
    x = torch.randn(200, 4)
    assert (pruned.outputs(x)[0] - network.outputs(x)[0]).norm() > 1
    assert "1" in reconstruct(pruned, network, [(x,)])
    assert (pruned.outputs(x)[0] - network.outputs(x)[0]).norm() < 0.1 * network.outputs(x)[0].norm()


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d])
def test_convolutions_are_refitted_on_their_patches(layer):
    torch.manual_seed(0)
    shape = (5,) if layer is nn.Conv1d else (5, 5)
    network = Network(nn.Sequential(layer(2, 6, 1), layer(6, 3, 3, stride=2)), (torch.zeros(2, 2, *shape),))
    kept = (1, 4)  # as many as there are inputs
    pruned = pruned_from(network, Slice("0.weight", 0, kept), Slice("0.bias", 0, kept), Slice("1.weight", 1, kept))
    x = torch.randn(64, 2, *shape)
    before = (pruned.outputs(x)[0] - network.outputs(x)[0]).norm()
    reconstruct(pruned, network, [(x,)])
    assert (pruned.outputs(x)[0] - network.outputs(x)[0]).norm() < 0.3 * before


def test_value_edits_and_scaled_layers_are_left_alone():
    network, structure = linear()
    pruned = pruned_from(network, *structure, Scale("0.weight", 0.5))
    edits.attach(pruned.module, "1.weight", grid=Affine.fit(edits.latent(pruned.module, "1.weight"), bits=8))
    before = {name: tensor.clone() for name, tensor in edits.state_dict(pruned.module).items()}
    assert reconstruct(pruned, network, [(torch.randn(64, 4),)]) == ()
    assert all(torch.equal(tensor, before[name]) for name, tensor in edits.state_dict(pruned.module).items())


def test_the_original_is_left_as_it_was_and_the_answer_is_the_same_each_time():
    network, structure = linear()
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    batches = [(torch.randn(64, 4),), (torch.randn(64, 4),)]
    found = [pruned_from(network, *structure) for _ in range(2)]
    for pruned in found:
        reconstruct(pruned, network, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert torch.equal(found[0].module[1].weight, found[1].module[1].weight)


def test_few_samples_are_not_fitted_to_the_last_one():
    """Twenty samples and forty inputs: what is fitted without a pull answers them, and no others."""
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(30, 60), nn.ReLU(), nn.Linear(60, 8)), (torch.zeros(2, 30),))
    kept = tuple(range(0, 60, 3)) + tuple(range(1, 60, 3))
    pruned = pruned_from(network, Slice("0.weight", 0, kept), Slice("0.bias", 0, kept), Slice("2.weight", 1, kept))
    seen, unseen = torch.randn(24, 30), torch.randn(2000, 30)

    def error() -> float:
        return float((pruned.outputs(unseen)[0] - network.outputs(unseen)[0]).square().mean())

    before = error()
    reconstruct(pruned, network, [(seen,)], only=("2",), ridge=None)
    assert error() < before
