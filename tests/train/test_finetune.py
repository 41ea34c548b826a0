"""Finetune: learns, keeps edits, resumes to the same bits, and leaves what it was given alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.errors import LissomError, UsageError
from lissom.files import write_bytes
from lissom.grids import Codebook
from lissom.job import Job, OutOfTime, step_from
from lissom.measure.metrics import cosine_agreement, measure
from lissom.network import Network
from lissom.prune.schedule import PolynomialDecay
from lissom.prune.weights import PruneWeights
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer

POINTS = np.random.default_rng(1).normal(size=(400, 12)).astype(np.float32)


def fresh(features: int = 12, classes: int = 4) -> Network:
    return Network(nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, classes)), (torch.zeros(2, features),))


def bits(network: Network) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in edits.state_dict(network.module).values()]


def test_learns_from_labels_and_leaves_its_input_alone(job: Job) -> None:
    network = fresh()
    before = bits(network)
    trained = Finetune(epochs=8, learning_rate=1e-2).apply(network, job)
    gain = measure(trained.outputs, job.data.test, job.metric).value - measure(network.outputs, job.data.test, job.metric).value
    assert gain > 0.3
    assert bits(network) == before
    assert not trained.module.training


def test_learns_from_the_teacher_where_there_are_no_labels(job: Job, classifier: Network) -> None:
    unlabelled = Data.of(Arrays((POINTS,)), seed=0)
    imitating = dataclasses.replace(job, data=unlabelled, metric=cosine_agreement)
    network = fresh()
    trained = Finetune(epochs=20, learning_rate=1e-2).apply(network, imitating)
    agree = [measure(n.outputs, unlabelled.test, cosine_agreement, original=classifier.outputs).value for n in (network, trained)]
    assert agree[1] > 0.9 > agree[0]


def test_without_labels_and_teacher_it_says_so(job: Job) -> None:
    unlabelled = Data.of(Arrays((POINTS,)), seed=0)
    with pytest.raises(UsageError, match="needs a teacher"):
        Finetune(epochs=1).apply(fresh(), dataclasses.replace(job, data=unlabelled, teacher=None))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(job: Job) -> None:
    step = Finetune(epochs=2, distill=Distill())
    network = fresh()
    assert bits(step.apply(network, job)) == bits(step.apply(network, job))
    assert bits(step.apply(network, job)) != bits(step.apply(network, dataclasses.replace(job, seed=1)))


class _Stop(Exception):
    pass


def test_resumes_to_the_same_bits_after_every_epoch(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies right after writing any of its checkpoints ends where an undisturbed run ends."""
    module = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    network = Network(module, (torch.zeros(2, 12),))
    during = PruneWeights(schedule=PolynomialDecay(final=0.7))
    step = Finetune(epochs=4, optimizer=Optimizer(name="SGD", options={"momentum": 0.9}), during=during, patience=3)
    whole = bits(step.apply(network, job))

    for dies_after in (1, 2, 3):
        written = 0

        def write_then_die(path: Path, data: bytes, after: int = dies_after) -> None:
            nonlocal written
            write_bytes(path, data)
            written += 1
            if written == after:
                raise _Stop

        resuming = dataclasses.replace(job, checkpoints=tmp_path / str(dies_after))
        with monkeypatch.context() as patch:
            patch.setattr("lissom.train.finetune.write_bytes", write_then_die)
            with pytest.raises(_Stop):
                step.apply(network, resuming)
        assert bits(step.apply(network, resuming)) == whole
        assert bits(step.apply(network, resuming)) == whole  # finished: read back


def test_zeros_stay_zero_and_shared_values_move_together(classifier: Network, job: Job) -> None:
    network = edits.copy(classifier)
    weight = edits.latent(network.module, "0.weight")
    mask = torch.rand_like(weight) > 0.5
    edits.attach(network.module, "0.weight", mask=mask)
    table = torch.tensor([-0.5, 0.0, 0.5])
    indices = (weight.detach()[..., None] - table).abs().argmin(-1)
    edits.attach(network.module, "0.weight", grid=Codebook(table, indices))
    trained = Finetune(epochs=2, learning_rate=1e-2).apply(network, job)
    value = edits.value(trained.module, "0.weight")
    assert torch.equal(value[~mask], torch.zeros_like(value[~mask]))
    moved = edits.edit_of(trained.module, "0.weight").grid.table.detach()
    assert not torch.equal(moved, table)
    assert set(value[mask].unique().tolist()) <= set(moved.tolist())


def test_gradual_pruning_reaches_its_sparsity(job: Job) -> None:
    step = Finetune(epochs=3, during=PruneWeights(schedule=PolynomialDecay(final=0.8)))
    value = edits.value(step.apply(fresh(), job).module, "0.weight")
    assert float((value == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


def test_patience_keeps_the_best_epoch(classifier: Network, job: Job) -> None:
    """A learning rate that shakes the network: what comes back is the best before patience ran out, the beginning included."""
    shaking = Finetune(epochs=8, learning_rate=0.3, optimizer=Optimizer(schedule="constant"), patience=2)
    scores = [measure(classifier.outputs, job.data.validation, job.metric).value]
    for epochs in range(1, 9):
        some = dataclasses.replace(shaking, epochs=epochs, patience=None).apply(classifier, job)
        scores.append(measure(some.outputs, job.data.validation, job.metric).value)
    best = 0
    for epoch, score in enumerate(scores):
        best = epoch if score > scores[best] else best
        if epoch - best >= 2:
            break
    patient = shaking.apply(classifier, job)
    assert measure(patient.outputs, job.data.validation, job.metric).value == scores[best]
    assert scores[best] > min(scores)


def test_a_loss_that_explodes_is_an_error_that_names_the_learning_rate(job: Job) -> None:
    step = Finetune(epochs=3, learning_rate=1e30, optimizer=Optimizer(name="SGD"))
    with pytest.raises(LissomError, match=r"lower the learning rate, which is 1e\+30"):
        step.apply(fresh(), job)


def test_the_users_own_loop_takes_the_place_of_ours(job: Job) -> None:
    def zero_everything(module: nn.Module, _job: Job) -> None:
        for parameter in module.parameters():
            parameter.data.zero_()

    trained = Finetune(epochs=1).apply(fresh(), dataclasses.replace(job, train=zero_everything))
    assert all(not tensor.any() for tensor in trained.module.state_dict().values())


def test_the_time_limit_stops_training(job: Job) -> None:
    with pytest.raises(OutOfTime):
        Finetune(epochs=1).apply(fresh(), dataclasses.replace(job, deadline=0.0))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1, "learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"epochs": 1, "during": {"Finetune": {"epochs": 1}}}, "does not act during training"),
        ({"epochs": 1, "optimizer": {"name": "Adagraad"}}, "Adagraad"),
        ({"epochs": 1, "optimizer": {"options": {"speed": 1}}}, "speed"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict, said: str, job: Job) -> None:
    with pytest.raises(UsageError, match=said):
        step_from({"Finetune": fields}).apply(fresh(), job)


def test_distillation_is_zero_at_the_teacher_and_above_elsewhere() -> None:
    teacher = (torch.randn(8, 5),)
    for classes in (True, False):
        same = Distill().loss(teacher, teacher, classes=classes)
        other = Distill().loss((torch.randn(8, 5),), teacher, classes=classes)
        assert float(same) == pytest.approx(0, abs=1e-6)
        assert float(other) > 0.1


def test_warm_up_and_cosine_move_the_learning_rate_as_documented() -> None:
    optimizer = Optimizer(warmup=0.1)
    assert optimizer.factor(0.0) == 0
    assert optimizer.factor(0.05) == pytest.approx(0.5 * 0.5 * (1 + np.cos(np.pi * 0.05)))
    assert optimizer.factor(1.0) == pytest.approx(0)
    assert Optimizer(schedule="constant").factor(0.7) == 1
