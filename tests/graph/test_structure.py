"""Structure edits on modules: tensors under all their aliases, attributes, value edits, and the way back from JSON."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.errors import ModelRefused
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.graph.structure import apply_structure, structure_from_json, structure_to_json
from lissom.grids import Affine, Codebook
from lissom.network import Bypass, Network, Resize, Slice


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(64, 3)
    )


def halved(network):
    graph = capture(network)
    return remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)}).network


def test_attributes_follow_the_tensors():
    module = halved(Network(convolutional(), (torch.randn(2, 2, 4, 4),))).module
    assert (module[0].out_channels, module[1].num_features, module[3].in_channels) == (3, 3, 3)
    assert (module[3].out_channels, module[5].in_features, module[5].out_features) == (2, 32, 3)


def test_the_structure_makes_room_in_a_fresh_module_for_the_pruned_weights():
    network = Network(convolutional(), (torch.randn(2, 2, 4, 4),))
    pruned = halved(network)
    structure = structure_from_json(structure_to_json(pruned.slices))
    assert structure == pruned.slices
    fresh = apply_structure(convolutional(), structure)
    fresh.load_state_dict(pruned.module.state_dict())
    inputs = network.example_inputs[0]
    assert torch.equal(fresh.eval()(inputs), pruned.outputs(inputs)[0])
    fresh.train()(inputs).sum().backward()
    assert fresh[0].weight.grad.shape == (3, 2, 3, 3)


@pytest.mark.parametrize("grid", ["none", "channel", "codebook"])
def test_slicing_and_attaching_commute(grid):
    """Slice after attach is attach after slice: masks, scales and levels are sliced with the weight."""
    kept = (0, 2, 5)
    mask = torch.rand(6, 2, 3, 3, generator=torch.Generator().manual_seed(1)) > 0.5

    def made(weight, at):
        if grid == "channel":
            return Affine(
                torch.linspace(0.01, 0.06, 6).reshape(6, 1, 1, 1)[at], torch.zeros(len(at), 1, 1, 1, dtype=torch.int32), -7, 7
            )
        if grid == "codebook":
            levels = torch.arange(108).reshape(6, 2, 3, 3) % 4
            return Codebook(torch.tensor([-0.2, 0.0, 0.1, 0.3]), levels[at])
        return None

    everything = list(range(6))
    first = convolutional()
    edits.attach(first, "0.weight", mask=mask, grid=made(first[0].weight, everything))
    apply_structure(first, [Slice("0.weight", 0, kept), Slice("0.bias", 0, kept)])
    second = apply_structure(convolutional(), [Slice("0.weight", 0, kept), Slice("0.bias", 0, kept)])
    edits.attach(second, "0.weight", mask=mask[list(kept)], grid=made(second[0].weight, list(kept)))
    assert torch.equal(edits.value(first, "0.weight"), edits.value(second, "0.weight"))
    assert edits.edit_of(first, "0.weight").mask.shape == (3, 2, 3, 3)


def test_zeros_and_levels_survive_a_removal():
    """A later step never undoes an earlier one: what was masked stays zero, what had levels keeps them."""
    network = edits.copy(Network(convolutional(), (torch.randn(2, 2, 4, 4),)))
    weight = edits.latent(network.module, "3.weight")
    edits.attach(network.module, "3.weight", mask=weight.abs() > 0.1, grid=Affine.fit(weight, bits=4, channel_axis=0))
    before = edits.value(network.module, "3.weight")
    pruned = halved(network)
    after = edits.value(pruned.module, "3.weight")
    (rows,) = (edit.kept for edit in pruned.slices if (edit.tensor, edit.axis) == ("3.weight", 0))
    (columns,) = (edit.kept for edit in pruned.slices if (edit.tensor, edit.axis) == ("3.weight", 1))
    assert torch.equal(after, before[list(rows)][:, list(columns)])
    assert edits.edit_of(pruned.module, "3.weight").grid is not None


def test_tied_weights_are_sliced_once_and_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    pruned = halved(Network(Tied(), (torch.randint(5, (2, 3)),)))
    assert pruned.module.head.weight is pruned.module.embedding.weight
    assert pruned.module.head.weight.shape == (5, 2)
    assert (pruned.module.head.in_features, pruned.module.embedding.embedding_dim) == (2, 2)


class NumbersAsFloats(nn.Module):
    """Token numbers come as floats, as some exporters of Keras write them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, numbers):
        return self.out(self.embedding(numbers.long()).relu())


def test_the_proof_gives_token_numbers_that_come_as_floats_no_noise():
    torch.manual_seed(0)
    network = Network(NumbersAsFloats(), (torch.randint(0, 7, (2, 5)).float(),))
    assert halved(network).module.embedding.weight.shape == (7, 3)


def test_a_bypass_answers_as_the_block_did():
    class Wrapped(nn.Linear):
        def forward(self, x):
            return (super().forward(x),)

    module = nn.ModuleDict({"plain": nn.Linear(2, 2), "wrapped": Wrapped(2, 2)})
    apply_structure(module, [Bypass("plain"), Bypass("wrapped", wrapped=True)])
    x = torch.randn(3, 2)
    assert module["plain"](x) is x
    assert module["wrapped"](x=x)[0] is x


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Slice("0.weight", 0, (9,)), "axis 0 was to keep position 9"),
        (Slice("nowhere.weight", 0, (0,)), "no module 'nowhere'"),
        (Resize("0", "heads", 2), "no attribute 'heads'"),
        (Bypass("7.block"), "no module '7.block'"),
    ],
)
def test_an_edit_that_does_not_fit_the_module_is_refused_in_words(edit, says):
    with pytest.raises(ModelRefused, match=says):
        apply_structure(convolutional(), [edit])


def test_a_structure_that_is_no_structure_is_refused():
    with pytest.raises(ModelRefused, match="no structure edit"):
        structure_from_json([{"kind": "slice", "tensor": "weight"}])
    with pytest.raises(ModelRefused, match="no structure edit"):
        structure_from_json([{"kind": "import", "module": "os"}])
