"""Factorize: ratios and limits are kept, what cannot be factored is named, and the result is a network like any other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import deploy, verify
from lissom.errors import UsageError
from lissom.factorize import Factorize
from lissom.graph.capture import capture
from lissom.graph.structure import apply_structure
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.train.losses import default_loss


class Residual(nn.Module):
    """Convolutions of every kind around a residual sum, and a tied pair."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 12)
        self.again = nn.Linear(16, 12)
        self.again.weight = self.head.weight
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.relu(y + self.body(self.depthwise(y)))
        pooled = y.mean((2, 3))
        return self.last(self.head(pooled) + self.again(pooled))


@pytest.fixture
def residual() -> tuple[Network, Job]:
    torch.manual_seed(1)
    random = np.random.default_rng(2)
    data = Data.of(Arrays((random.normal(size=(200, 3, 8, 8)).astype(np.float32),)), seed=0)
    network = Network(Residual(), (torch.zeros(2, 3, 8, 8),))
    return network, Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def test_what_cannot_be_factored_is_left_alone_and_named(residual: tuple[Network, Job]) -> None:
    network, job = residual
    made = Factorize(ratio=0.5).apply(network, job)
    assert {edit.module for edit in made.slices} == {"stem", "body", "last"}
    told = " ".join(made.notes)
    assert "depthwise was left alone: it is grouped" in told
    assert "head was left alone: it shares its weight with again.weight" in told


def test_a_limit_on_parameters_or_macs_is_kept_and_spent_where_it_hurts_least(residual: tuple[Network, Job]) -> None:
    network, job = residual
    chosen = ("stem", "body")
    for name in ("parameters", "macs"):
        made = Factorize(include=chosen, **{name: 0.6}).apply(network, job)
        count = {each: sum(p.numel() for p in made.module.get_submodule(each).parameters()) for each in chosen}
        if name == "parameters":
            assert sum(count.values()) <= 0.6 * (3 * 16 * 9 + 16 * 16 * 9 + 16)
        else:
            assert capture(made).macs < 0.75 * capture(network).macs
        even = Factorize(include=chosen, ratio=0.6).apply(network, job)
        inputs, _ = job.data.test.first(64)
        wanted = network.outputs(*inputs)[0]
        missed = [float((each.outputs(*inputs)[0] - wanted).square().mean()) for each in (made, even)]
        assert missed[0] <= missed[1] * 1.2


def test_the_file_and_the_users_own_class_take_the_result(residual: tuple[Network, Job]) -> None:
    network, job = residual
    made = Factorize(method="tucker", ratio=0.5).apply(network, job)
    inputs, _ = job.data.test.first(32)
    assert verify(deploy(made), made, [inputs]).holds
    rebuilt = apply_structure(Residual(), made.slices)
    rebuilt.load_state_dict(edits.state_dict(made.module))
    assert torch.equal(Network(rebuilt, network.example_inputs).outputs(*inputs)[0], made.outputs(*inputs)[0])


def test_masked_and_quantized_layers_are_not_undone(residual: tuple[Network, Job]) -> None:
    network, job = residual
    masked = edits.copy(network)
    edits.attach(masked.module, "body.weight", mask=torch.rand(16, 16, 3, 3) > 0.5)
    made = Factorize(ratio=0.5).apply(masked, job)
    assert any(note.startswith("body was left alone") and "mask" in note for note in made.notes)


def test_a_network_that_reads_a_layers_weight_keeps_the_layer() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Linear(8, 8)
            self.other = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.wide(x).to(self.wide.weight.dtype))

    torch.manual_seed(0)
    data = Data.of(Arrays((np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32),)), seed=0)
    network = Network(Reads(), (torch.zeros(2, 8),))
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)
    made = Factorize(ratio=0.5).apply(network, job)
    assert [edit.module for edit in made.slices] == ["other"]
    assert any("wide was left alone: the network reads more of it" in note for note in made.notes)


def test_too_few_samples_are_told() -> None:
    data = Data.of(Arrays((np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32),)), seed=0)
    network = Network(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (torch.zeros(2, 8),))
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)
    made = Factorize(ratio=0.6, samples=1).apply(network, job)
    assert any("0 has 2 factors, fitted on 1 positions" in note for note in made.notes)


def test_two_limits_are_refused() -> None:
    with pytest.raises(UsageError, match="ratio and macs are given; give at most one"):
        Factorize(ratio=0.5, macs=0.5)


def test_a_limit_on_time_is_dealt_out_by_measuring_and_kept(residual: tuple[Network, Job], tmp_path: Path) -> None:
    """What is decided by timing is decided once; and layers are replaced only where the whole file is faster for it."""
    network, job = residual
    job = dataclasses.replace(job, checkpoints=tmp_path)
    step = Factorize(latency=0.8, samples=32, include=("stem", "body"))
    made = step.apply(network, job)
    seconds = json.loads((tmp_path / "times.json").read_text())
    assert all(value > 0 for value in seconds.values())
    assert {name.split()[0] for name in seconds} == {"stem", "body"}
    told = ("no layer was factored", "no ranks leave only 80%")  # on a machine where no factors are faster
    assert made.slices or any(note.startswith(told) for note in made.notes)
    step.apply(network, job)
    assert json.loads((tmp_path / "times.json").read_text()) == seconds


def test_a_limit_that_no_ranks_meet_gives_the_closest_and_says_so(residual: tuple[Network, Job]) -> None:
    network, job = residual
    made = Factorize(parameters=0.01, samples=32, include=("stem", "body")).apply(network, job)
    assert {edit.module for edit in made.slices} == {"stem", "body"}
    assert any("no ranks leave only 1% of the chosen layers' parameters: these are the closest" in note for note in made.notes)


def test_a_rank_that_is_full_gains_nothing_and_the_layer_stays(residual: tuple[Network, Job]) -> None:
    network, job = residual
    made = Factorize(energy=0.999999, samples=0, include=("body",)).apply(network, job)
    assert not made.slices
    assert any("body was left alone: channel blocks of (16,) have" in note for note in made.notes)


def test_kernels_that_a_method_does_not_fit_are_named(residual: tuple[Network, Job]) -> None:
    network, job = residual
    made = Factorize(method="spatial", ratio=0.5, samples=16).apply(network, job)
    assert {edit.module for edit in made.slices} == {"stem", "body"}
    assert "last was left alone: spatial blocks need a kernel of k x k" in made.notes
