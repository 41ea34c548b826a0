"""PruneChannels: targets, multiples, rounds, what is refused and said, and that nothing done before is undone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lissom
from lissom import edits
from lissom.codec import encode
from lissom.data import Arrays, Data
from lissom.deploy import deploy, verify
from lissom.errors import ModelRefused, UsageError
from lissom.files import write_bytes
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.grids import Affine
from lissom.job import Job
from lissom.loading import structure_text
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.prune.channel_importance import CHANNEL_IMPORTANCES
from lissom.prune.channels import PruneChannels
from lissom.prune.weights import PruneWeights
from lissom.train.finetune import Finetune
from lissom.train.losses import default_loss


class Convolutional(nn.Module):
    """Two convolutions with a residual sum, batch norm and a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.back = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(x + self.back(F.relu(self.inner(x)))).mean((2, 3)))


MACS = 64 * (16 * 27 + 32 * 16 * 9 + 16 * 32) + 64
"""Of one sample of :class:`Convolutional`."""


def built() -> Network:
    torch.manual_seed(0)
    return Network(Convolutional(), (torch.randn(2, 3, 8, 8),))


def job_of(network: Network, *, labelled: bool = True, count: int = 96) -> Job:
    random = np.random.default_rng(0)
    shape = network.example_inputs[0].shape[1:]
    images = random.normal(size=(count, *shape)).astype(np.float32)
    data = Data.of(Arrays((images,), random.integers(0, 4, count) if labelled else None), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


@pytest.fixture
def network() -> Network:
    return built()


@pytest.fixture
def convolutional_job(network: Network) -> Job:
    return job_of(network)


@pytest.mark.parametrize(("importance", "scope"), [*((name, "global") for name in sorted(CHANNEL_IMPORTANCES)), ("l2", "group")])
def test_macs_are_met_by_every_importance_and_scope(network, convolutional_job, importance, scope):
    step = PruneChannels(macs=0.5, importance=importance, scope=scope, reconstruct=False, samples=16)
    pruned = step.apply(network, convolutional_job)
    assert 0.35 < capture(pruned).macs / MACS <= 0.5
    assert not pruned.notes


def test_a_share_of_every_group_goes(network, convolutional_job):
    pruned = PruneChannels(ratio=0.5, scope="group", importance="l1").apply(network, convolutional_job)
    assert [pruned.module.first.out_channels, pruned.module.inner.out_channels] == [8, 16]


def test_the_least_important_go(network, convolutional_job):
    with torch.no_grad():
        for weight in (network.module.inner.weight[5:7], network.module.back.weight[:, 5:7]):
            weight.mul_(1e-3)
    pruned = PruneChannels(ratio=2 / 48, importance="l2", reconstruct=False).apply(network, convolutional_job)
    (rows,) = (edit.kept for edit in pruned.slices if (edit.tensor, edit.axis) == ("inner.weight", 0))
    assert set(range(32)) - set(rows) == {5, 6}


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_is_left_is_a_multiple(network, convolutional_job, rounds):
    pruned = PruneChannels(macs=0.4, multiple=8, rounds=rounds, importance="l2").apply(network, convolutional_job)
    assert {pruned.module.first.out_channels % 8, pruned.module.inner.out_channels % 8} == {0}
    assert capture(pruned).macs <= 0.4 * MACS


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_least_share_of_every_group_stays(network, convolutional_job, rounds):
    pruned = PruneChannels(macs=0.05, least=0.3, rounds=rounds, samples=16).apply(network, convolutional_job)
    assert [group.size for group in groups(capture(pruned))] == [5, 10]  # of 16 and 32
    assert any("5% cannot be reached" in note for note in pruned.notes)


def test_a_ratio_that_would_empty_a_layer_keeps_one_unit_and_says_so(network, convolutional_job):
    pruned = PruneChannels(ratio=0.99, importance="l2").apply(network, convolutional_job)
    assert (pruned.module.first.out_channels, pruned.module.inner.out_channels) == (1, 1)
    assert any("never emptied" in note and "first.weight[0]" in note for note in pruned.notes)


def test_a_target_that_cannot_be_met_gives_the_closest_and_says_so(network, convolutional_job):
    pruned = PruneChannels(macs=1e-4, importance="l2").apply(network, convolutional_job)
    assert (pruned.module.first.out_channels, pruned.module.inner.out_channels) == (1, 1)
    assert any("cannot be reached" in note for note in pruned.notes)


def test_a_latency_is_approached_decided_once_and_missed_in_words(tmp_path):
    torch.manual_seed(0)
    wide = Network(Convolutional(32), (torch.randn(2, 3, 16, 16),))
    job = dataclasses.replace(job_of(wide, count=40), checkpoints=tmp_path)
    step = PruneChannels(latency=1e-4, importance="l2", multiple=16, reconstruct=False)
    pruned = step.apply(wide, job)
    assert pruned.module.inner.out_channels == 16
    assert any("of the latency" in note and "cannot be reached" in note for note in pruned.notes)
    (decided,) = tmp_path.glob("latency-*.json")  # what timing decided is kept, so that a resumed run decides the same
    written = decided.read_bytes()
    assert step.apply(wide, job).slices == pruned.slices
    assert decided.read_bytes() == written


def test_training_between_rounds_gives_the_loss_less_to_lose(network, convolutional_job):
    plain = PruneChannels(macs=0.4, rounds=2, importance="l2", reconstruct=False)
    trained = dataclasses.replace(plain, finetune=Finetune(epochs=1, batch_size=16))
    one, other = (step.apply(network, convolutional_job) for step in (plain, trained))
    for found in (one, other):
        assert capture(found).macs <= 0.4 * MACS
    assert not torch.equal(one.module.head.weight, other.module.head.weight)


def test_reconstruction_brings_the_outputs_nearer_without_labels(network):
    job = job_of(network, labelled=False)
    inputs = torch.from_numpy(np.random.default_rng(1).normal(size=(32, 3, 8, 8)).astype(np.float32))
    want = network.outputs(inputs)[0]
    errors = [
        float((PruneChannels(macs=0.5, importance="l2", reconstruct=mend).apply(network, job).outputs(inputs)[0] - want).norm())
        for mend in (False, True)
    ]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("fields", [{}, {"ratio": 0.5, "macs": 0.5}, {"macs": 0.5, "latency": 0.5}])
def test_one_target_is_given(fields):
    with pytest.raises(UsageError, match="give one of ratio, macs and latency"):
        PruneChannels(**fields)


def test_zeros_go_at_any_point_of_a_recipe(network, convolutional_job):
    """Masked to zero by a weight pruning step, then quantized, the positions go and the outputs stay."""
    masked = edits.copy(network)
    dead = [1, 4, 9]
    for name, axis in (("inner.weight", 0), ("inner.bias", 0)):
        mask = torch.ones(edits.latent(masked.module, name).shape, dtype=torch.bool)
        mask.index_fill_(axis, torch.tensor(dead), False)
        edits.attach(masked.module, name, mask=mask)
    weight = edits.latent(masked.module, "inner.weight")
    edits.attach(masked.module, "inner.weight", grid=Affine.fit(weight, bits=8, channel_axis=0))
    pruned = PruneChannels(ratio=0).apply(masked, convolutional_job)
    assert pruned.module.inner.weight.shape[0] == 29
    x = network.example_inputs[0]
    assert torch.allclose(pruned.outputs(x)[0], masked.outputs(x)[0], atol=1e-5)
    later = PruneWeights(sparsity=0.5).apply(pruned, convolutional_job)
    assert float((edits.value(later.module, "inner.weight") == 0).float().mean()) >= 0.5


def test_the_sliced_network_exports_with_parity_and_trains_on_from_its_file(network, convolutional_job, tmp_path):
    pruned = PruneChannels(macs=0.5, importance="l2").apply(network, convolutional_job)
    deployed = deploy(pruned)
    assert verify(deployed, pruned, [(torch.randn(32, 3, 8, 8),)]).max_relative <= 1e-4
    write_bytes(tmp_path / "model.lissom", encode(edits.tensors(pruned.module), metadata=structure_text(pruned), effort="fast"))
    loaded = lissom.load(tmp_path / "model.lissom", build=built)
    x = network.example_inputs[0]
    assert torch.allclose(loaded.outputs(x)[0], pruned.outputs(x)[0], atol=1e-5)
    trained = Finetune(epochs=1, batch_size=16).apply(loaded, convolutional_job)
    assert trained.module.inner.weight.shape == pruned.module.inner.weight.shape
    assert not torch.equal(trained.module.head.weight, loaded.module.head.weight)


def test_half_precision_stays_half():
    torch.manual_seed(0)
    half = Network(
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).to(torch.bfloat16), (torch.randn(2, 6).bfloat16(),)
    )
    with torch.no_grad():
        half.module[0].weight[3], half.module[0].bias[3] = 0, 0
    pruned = PruneChannels(ratio=0).apply(half, job_of(half))
    assert pruned.module[0].weight.shape == (15, 6)
    halved = PruneChannels(ratio=0.5, importance="l2", reconstruct=False).apply(half, job_of(half))
    assert halved.module[0].weight.shape == (8, 6)
    assert {parameter.dtype for parameter in halved.module.parameters()} == {torch.bfloat16}


def test_complex_weights_are_refused_in_words():
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.complex64) @ self.weight.T).abs()

    given = Network(Complex(), (torch.randn(2, 3),))
    with pytest.raises(ModelRefused, match="weight is complex"):
        PruneChannels(ratio=0.5).apply(given, job_of(given))


def test_control_flow_that_depends_on_data_is_refused_in_words():
    class Branching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    given = Network(Branching(3, 4), (torch.randn(2, 3),))
    with pytest.raises(ModelRefused, match="control flow that depends on data"):
        PruneChannels(ratio=0.5).apply(given, job_of(given))


def test_a_module_called_with_different_shapes_loses_channels_once(convolutional_job):
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.shared, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            large, small = self.shared(x), self.shared(F.avg_pool2d(x, 2))
            return self.head(large.mean((2, 3)) + small.mean((2, 3)))

    torch.manual_seed(0)
    given = Network(Pyramid(), (torch.randn(2, 3, 8, 8),))
    assert [group.size for group in groups(capture(given))] == [8, 6]
    pruned = PruneChannels(ratio=0.5, scope="group", importance="l2").apply(given, convolutional_job)
    assert pruned.module.shared.weight.shape == (3, 4, 3, 3)


def test_what_cannot_be_proved_is_left_alone_and_named(convolutional_job):
    class Written(nn.Module):
        """A size that stands in the code as a number, where no attribute can follow."""

        def __init__(self) -> None:
            super().__init__()
            self.into, self.other, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            stuck = self.into(x).reshape(-1, 8, 64)
            return self.head(stuck.mean(2)) + self.other(x).mean((1, 2, 3)).unsqueeze(1)

    given = Network(Written(), (torch.randn(2, 3, 8, 8),))
    pruned = PruneChannels(ratio=0.5, importance="l2").apply(given, convolutional_job)
    assert pruned.module.into.out_channels == 8
    assert any(note.startswith("into.weight[0] was left alone") for note in pruned.notes)
