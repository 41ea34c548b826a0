"""ShareWeights: as few values as asked for, zero exact, codebooks that train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.errors import UsageError
from lissom.job import Job
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.prune.weights import PruneWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.share import ShareWeights
from lissom.train.finetune import Finetune


@pytest.mark.parametrize("start", ["linear", "density", "random", "exact"])
@pytest.mark.parametrize("pruned", [False, True])
def test_no_more_values_than_asked_for(start: str, pruned: bool, classifier: Network, job: Job) -> None:
    network = PruneWeights(sparsity=0.5).apply(classifier, job) if pruned else classifier
    shared = ShareWeights(bits=3, start=start).apply(network, job)
    for name in edits.selected(shared.module):
        value = edits.value(shared.module, name)
        assert value.unique().numel() <= 8
        assert torch.equal(value == 0, edits.value(network.module, name) == 0)
        assert edits.edit_of(shared.module, name).grid.table.numel() <= 8


def test_each_weight_takes_the_nearest_value(classifier: Network, job: Job) -> None:
    shared = ShareWeights(entries=6).apply(classifier, job)
    for name in edits.selected(shared.module):
        table = edits.edit_of(shared.module, name).grid.table.detach()
        weight = edits.value(classifier.module, name)
        nearest = (weight[..., None] - table).abs().amin(-1)
        assert torch.allclose((edits.value(shared.module, name) - weight).abs(), nearest, atol=1e-6)


def test_the_gradient_of_a_value_is_the_sum_over_its_members(classifier: Network, job: Job) -> None:
    inputs, targets = job.data.train.first(32)
    shared = ShareWeights(bits=2).apply(PruneWeights(sparsity=0.5).apply(classifier, job), job)
    job.loss((shared.module(*inputs),), targets).backward()
    plain = edits.bake(edits.copy(shared).module)
    job.loss((plain(*inputs),), targets).backward()
    for name in edits.selected(plain):
        edit = edits.edit_of(shared.module, name)
        gradient = plain.get_parameter(name).grad
        for entry, found in enumerate(edit.grid.table.grad):
            members = (edit.grid.indices == entry) & edit.mask
            assert float(found) == pytest.approx(float(gradient[members].sum()), abs=1e-6)


def test_trained_values_move_and_zero_does_not(classifier: Network, job: Job) -> None:
    pruned = PruneWeights(sparsity=0.6).apply(classifier, job)
    shared = ShareWeights(bits=2, start="linear").apply(pruned, job)
    trained = Finetune(epochs=5, learning_rate=1e-2).apply(shared, job)
    for name in edits.selected(trained.module):
        before, after = edits.value(shared.module, name), edits.value(trained.module, name)
        assert torch.equal(before == 0, after == 0)
        assert not torch.equal(before, after)
        assert after.unique().numel() <= 4
    scores = [measure(network.outputs, job.data.train, job.metric).value for network in (shared, trained)]
    assert scores[1] >= scores[0]


def test_a_global_codebook_is_one_parameter(classifier: Network, job: Job) -> None:
    shared = ShareWeights(bits=3, scope="global").apply(classifier, job)
    tables = {id(edits.edit_of(shared.module, name).grid.table) for name in edits.selected(shared.module)}
    assert len(tables) == 1
    values = torch.cat([edits.value(shared.module, name).flatten() for name in edits.selected(shared.module)])
    assert values.unique().numel() <= 8
    trained = Finetune(epochs=1, learning_rate=1e-2).apply(shared, job)
    values = torch.cat([edits.value(trained.module, name).flatten() for name in edits.selected(trained.module)])
    assert values.unique().numel() <= 8


@pytest.mark.parametrize("fields", [{"block": 3}, {"block": 3, "bits": 3}])
def test_blocks_of_neighbours_share(fields: dict[str, int], job: Job) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, (2, 4))
    network = Network(module, (torch.zeros(2, 2, 4, 4),))
    shared = ShareWeights(**fields).apply(network, job)
    rows = edits.value(shared.module, "weight").reshape(3, 16)
    original = module.weight.detach().reshape(3, 16)
    for start in range(0, 16, 3):
        part = rows[:, start : start + 3]
        assert bool((part == part[:, :1]).all())
        if "bits" not in fields:
            assert torch.allclose(part[:, 0], original[:, start : start + 3].mean(1), atol=1e-6)


def test_blocks_leave_zeros_and_average_the_rest(job: Job) -> None:
    module = nn.Linear(4, 1, bias=False)
    module.weight.data = torch.tensor([[1.0, 0.0, 3.0, 5.0]])
    shared = ShareWeights(block=2).apply(Network(module, (torch.zeros(2, 4),)), job)
    assert edits.value(shared.module, "weight").tolist() == [[1.0, 0.0, 4.0, 4.0]]


def test_exact_zeros_of_a_sparse_network_stay_without_a_mask(classifier: Network, job: Job) -> None:
    sparse = edits.copy(PruneWeights(sparsity=0.7).apply(classifier, job))
    edits.bake(sparse.module)
    shared = ShareWeights(bits=2).apply(sparse, job)
    trained = Finetune(epochs=1, learning_rate=1e-2).apply(shared, job)
    for name in edits.selected(sparse.module):
        assert torch.equal(edits.value(trained.module, name) == 0, edits.value(sparse.module, name) == 0)


def test_what_cannot_be_shared_is_left_and_noted(classifier: Network, job: Job) -> None:
    module = nn.Sequential(nn.Linear(12, 3), nn.Linear(3, 4))
    nn.init.zeros_(module[0].weight)
    network = QuantizeWeights(bits=8, include=("1.weight",)).apply(Network(module, (torch.zeros(2, 12),)), job)
    shared = ShareWeights(bits=2).apply(network, job)
    assert any("1.weight is on a Affine grid already" in note for note in shared.notes)
    assert any("0.weight is zero throughout" in note for note in shared.notes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "nothing to share by"),
        ({"bits": 2, "entries": 4}, "give one of them"),
        ({"bits": 17}, "bits is 17"),
        ({"entries": 1}, "entries is 1"),
        ({"block": 0, "bits": 2}, "block is 0"),
    ],
)
def test_senseless_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ShareWeights(**fields)


def test_too_many_blocks_for_one_codebook(job: Job) -> None:
    network = Network(nn.Linear(512, 512), (torch.zeros(2, 512),))
    with pytest.raises(UsageError, match=r"13\d{4} blocks of 2 in weight"):
        ShareWeights(block=2).apply(network, job)


def test_stored_levels_are_in_the_order_of_their_values(classifier: Network, job: Job) -> None:
    shared = ShareWeights(bits=3).apply(PruneWeights(sparsity=0.5).apply(classifier, job), job)
    table = edits.tensors(shared.module)["0.weight"].decoding.values
    assert np.all(np.diff(table) > 0)
    assert (table == 0).sum() == 1
