"""PruneLayers: the blocks that the outputs miss least go, by what is measured on data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissom.network import Bypass, Network
from lissom.prune.layers import PruneLayers, blocks

from .test_channels import job_of


class Block(nn.Module):
    def __init__(self, width: int, strength: float) -> None:
        super().__init__()
        self.inner, self.strength = nn.Linear(width, width), strength

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * torch.relu(self.inner(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(6, strength) for strength in (1.0, 1e-3, 0.5, 1e-2))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def network() -> Network:
    torch.manual_seed(0)
    return Network(Stack(), (torch.randn(2, 6),))


def test_blocks_are_what_answers_in_the_shape_of_its_input():
    assert blocks(network()) == tuple(Bypass(f"blocks.{number}") for number in range(4))


def test_those_go_that_the_outputs_miss_least_and_the_notes_name_them():
    given = network()
    before = {name: tensor.clone() for name, tensor in given.module.state_dict().items()}
    pruned = PruneLayers(count=2).apply(given, job_of(given))
    assert pruned.slices == (Bypass("blocks.1"), Bypass("blocks.3"))
    assert [note.split()[0] for note in pruned.notes] == ["blocks.1", "blocks.3"]
    x = torch.randn(16, 6)
    assert torch.allclose(pruned.outputs(x)[0], given.outputs(x)[0], atol=0.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.module.state_dict().items())


def test_refitting_brings_the_outputs_nearer_without_labels():
    given = network()
    job = job_of(given, labelled=False, count=400)
    plain, refitted = (PruneLayers(count=3, reconstruct=each).apply(given, job) for each in (False, True))
    x = torch.randn(64, 6)
    far, near = ((pruned.outputs(x)[0] - given.outputs(x)[0]).norm() for pruned in (plain, refitted))
    assert near < 0.7 * far


def test_fewer_blocks_than_asked_for_is_said():
    given = network()
    pruned = PruneLayers(count=9).apply(given, job_of(given))
    assert len(pruned.slices) == 4
    assert any(note.startswith("only 4 of 9 blocks") for note in pruned.notes)


def test_a_module_called_twice_or_changing_shape_is_no_block():
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.narrow = nn.Sequential(nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.narrow(self.twice(self.twice(x)))

    assert blocks(Network(Other(), (torch.randn(2, 6),))) == ()
