"""PruneWeights: exact masks, exact shares, growth by schedule, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissom import edits
from lissom.errors import UsageError
from lissom.job import Job
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.prune.allocation import ALLOCATIONS, RANKINGS, scaled_by_layer
from lissom.prune.l1 import L1Regularise
from lissom.prune.schedule import PolynomialDecay
from lissom.prune.weights import PruneWeights
from lissom.train.finetune import Finetune


def zeros(network: Network) -> dict[str, float]:
    return {name: float((edits.value(network.module, name) == 0).float().mean()) for name in edits.selected(network.module)}


def overall(network: Network) -> float:
    values = [edits.value(network.module, name).flatten() for name in edits.selected(network.module)]
    return float((torch.cat(values) == 0).float().mean())


def test_the_smallest_go_first(job: Job) -> None:
    module = nn.Linear(4, 1)
    module.weight.data = torch.tensor([[0.3, -0.1, 0.2, -0.4]])
    pruned = PruneWeights(sparsity=0.5).apply(Network(module, (torch.zeros(2, 4),)), job)
    assert torch.equal(edits.value(pruned.module, "weight"), torch.tensor([[0.3, 0.0, 0.0, -0.4]]))
    assert edits.edit_of(pruned.module, "bias") is None


def test_threshold_is_inclusive(job: Job) -> None:
    module = nn.Linear(4, 1)
    module.weight.data = torch.tensor([[0.25, -0.125, 0.5, -0.25]])
    pruned = PruneWeights(threshold=0.25).apply(Network(module, (torch.zeros(2, 4),)), job)
    assert edits.value(pruned.module, "weight").tolist() == [[0.0, 0.0, 0.5, 0.0]]


@pytest.mark.parametrize("allocation", sorted(ALLOCATIONS))
def test_every_allocation_meets_the_total(allocation: str, classifier: Network, job: Job) -> None:
    weights = sum(edits.latent(classifier.module, name).numel() for name in edits.selected(classifier.module))
    for sparsity in (0.0, 0.37, 0.9):
        pruned = PruneWeights(sparsity=sparsity, allocation=allocation).apply(classifier, job)
        assert sparsity - 3 / weights <= overall(pruned) <= sparsity + 1 / weights


@pytest.mark.parametrize("allocation", sorted(RANKINGS))
def test_global_masks_are_one_ranking(allocation: str, classifier: Network, job: Job) -> None:
    pruned = PruneWeights(sparsity=0.6, allocation=allocation).apply(classifier, job)
    kept, gone = [], []
    for name in edits.selected(classifier.module):
        ranked = RANKINGS[allocation](edits.value(classifier.module, name).abs())
        mask = edits.edit_of(pruned.module, name).mask
        kept.append(float(ranked[mask].min()))
        gone.append(float(ranked[~mask].max()))
    assert max(gone) <= min(kept)


def test_lamp_by_hand() -> None:
    """Squares 1, 4, 9: scores 1/14, 4/13, 9/9."""
    lamp = RANKINGS["lamp"](torch.tensor([2.0, 1.0, 3.0]))
    assert torch.allclose(lamp.float(), torch.tensor([4 / 13, 1 / 14, 1.0]))


def test_scaling_a_layer_does_not_move_the_scaled_allocation(job: Job) -> None:
    def pruned(factor: float) -> dict[str, float]:
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))
        module[0].weight.data *= factor
        network = Network(module, (torch.zeros(2, 12),))
        return zeros(PruneWeights(sparsity=0.5, allocation="scaled").apply(network, job))

    assert pruned(1.0) == pruned(64.0)
    assert torch.allclose(scaled_by_layer(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0]) / np.sqrt(12.5).item())


def test_sensitivity_spares_the_layer_that_matters(job: Job) -> None:
    """The first layer is followed by a factor of nearly nothing on all but one path, so it can lose everything else."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 32), nn.Linear(32, 4))
    idle = nn.Linear(12, 32)
    both = _TwoPaths(module, idle)
    network = Network(both, (torch.zeros(2, 12),))
    shares = zeros(PruneWeights(sparsity=0.5, allocation="sensitivity").apply(network, job))
    assert shares["idle.weight"] > 0.8
    assert shares["path.1.weight"] < 0.3


class _TwoPaths(nn.Module):
    def __init__(self, path: nn.Module, idle: nn.Module) -> None:
        super().__init__()
        self.path, self.idle = path, idle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.path(x) + 1e-6 * self.idle(x)[:, :4]


def test_globs_give_each_layer_its_own_sparsity(classifier: Network, job: Job) -> None:
    pruned = PruneWeights(sparsity={"0.*": 0.75, "*.weight": 0.25}, exclude=("*.bias",)).apply(classifier, job)
    assert zeros(pruned) == {"0.weight": 0.75, "2.weight": 0.25}


def test_a_dead_layer_is_named(job: Job) -> None:
    module = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 4))
    module[0].weight.data *= 1e-3
    pruned = PruneWeights(sparsity=0.8, allocation="global").apply(Network(module, (torch.zeros(2, 12),)), job)
    assert any(note.startswith("0.weight has no weight left") for note in pruned.notes)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    initial=st.floats(0, 0.5),
    final=st.floats(0.5, 0.99),
    begin=st.floats(0, 0.4),
    end=st.floats(0.5, 1.0),
    power=st.floats(0.5, 4),
)
def test_the_schedule_rises_from_initial_to_final(initial: float, final: float, begin: float, end: float, power: float) -> None:
    decay = PolynomialDecay(initial=initial, final=final, begin=begin, end=end, power=power)
    steps = [decay.sparsity(progress) for progress in np.linspace(0, 1, 101)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(steps))
    assert steps[-1] == pytest.approx(final)
    assert decay.sparsity(begin) == pytest.approx(initial)
    assert begin == 0 or decay.sparsity(begin * 0.99 - 1e-9) == 0


def test_gradual_pruning_reaches_its_end_while_training(classifier: Network, job: Job) -> None:
    prune = PruneWeights(schedule=PolynomialDecay(final=0.8, end=0.6), allocation="global")
    trained = Finetune(epochs=4, learning_rate=1e-2, during=prune).apply(classifier, job)
    assert overall(trained) == pytest.approx(0.8, abs=0.01)
    one_shot = PruneWeights(sparsity=0.8, allocation="global").apply(classifier, job)
    scores = [measure(network.outputs, job.data.test, job.metric).value for network in (trained, one_shot)]
    assert scores[0] > scores[1]


def test_gradual_pruning_ends_even_where_training_stops_early(classifier: Network, job: Job) -> None:
    prune = PruneWeights(schedule=PolynomialDecay(final=0.6, end=1.0))
    trained = Finetune(epochs=20, learning_rate=1e-7, during=prune, patience=1).apply(classifier, job)
    assert overall(trained) == pytest.approx(0.6, abs=0.01)


def test_gradual_pruning_resumes_to_the_same_bits(classifier: Network, job: Job, tmp_path) -> None:
    prune = PruneWeights(schedule=PolynomialDecay(final=0.7), importance="taylor", samples=64)
    whole = Finetune(epochs=4, during=prune).apply(classifier, job)
    kept = dataclasses.replace(job, checkpoints=tmp_path)
    Finetune(epochs=4, during=prune).apply(classifier, kept)
    assert (tmp_path / "training.pt").exists()
    resumed = Finetune(epochs=4, during=prune).apply(classifier, kept)
    for name in edits.selected(classifier.module):
        assert torch.equal(edits.value(whole.module, name), edits.value(resumed.module, name))


def test_l1_makes_exact_zeros_and_keeps_the_metric(classifier: Network, job: Job) -> None:
    before = measure(classifier.outputs, job.data.test, job.metric).value
    trained = Finetune(epochs=12, batch_size=16, learning_rate=1e-2, during=L1Regularise(strength=0.5)).apply(classifier, job)
    assert 0.3 < overall(trained) < 0.99
    for name in edits.selected(trained.module):
        edit, value = edits.edit_of(trained.module, name), edits.value(trained.module, name)
        assert torch.equal(edit.mask, value != 0)
    assert measure(trained.outputs, job.data.test, job.metric).value > before - 0.05


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "none of them given"),
        ({"sparsity": 0.5, "threshold": 0.1}, "sparsity and threshold given"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"sparsity": -0.1}, "sparsity is -0.1"),
        ({"sparsity": {"a": 0.5}, "allocation": "global"}, "nothing to allocate"),
        ({"threshold": 0.1, "allocation": "lamp"}, "with a threshold"),
        ({"sparsity": 0.5, "importance": "size"}, "importance is 'size'"),
        ({"sparsity": 0.5, "ratio": 0.5}, "ratio"),
    ],
)
def test_senseless_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PruneWeights(**fields)


def test_a_schedule_acts_only_during_training(classifier: Network, job: Job) -> None:
    with pytest.raises(UsageError, match="acts during training"):
        PruneWeights(schedule=PolynomialDecay()).apply(classifier, job)
    with pytest.raises(UsageError, match="sensitivity is measured once"):
        PruneWeights(schedule=PolynomialDecay(), allocation="sensitivity")
    with pytest.raises(UsageError, match="masks only grow"):
        PolynomialDecay(initial=0.5, final=0.1)
    with pytest.raises(UsageError, match="must come after begin"):
        PolynomialDecay(begin=0.5, end=0.5)
