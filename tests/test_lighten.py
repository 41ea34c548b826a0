"""Lighten: every layer gets its own kind of block in one pass, which mends what steps one after the other would not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data
from lissom.errors import UsageError
from lissom.factorize import Factorize
from lissom.job import Job
from lissom.lighten import Lighten
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.prune.weights import PruneWeights
from lissom.recipe import Recipe
from lissom.substitute import Substitute
from lissom.train.losses import default_loss

PARTS = (
    Factorize(ratio=0.4, include=("4", "8"), samples=64),
    Substitute(kind="separable", ratio=0.4, include=("2", "4"), samples=64),
)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3)]
    return Network(
        nn.Sequential(*convolutions, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6)),
        (torch.zeros(2, 3, 8, 8),),
    )


@pytest.fixture
def job(network: Network) -> Job:
    images = np.random.default_rng(1).normal(size=(200, 3, 8, 8)).astype(np.float32)
    data = Data.of(Arrays((images,)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def test_each_layer_is_the_first_parts_that_picks_it(network: Network, job: Job) -> None:
    made = Lighten(parts=PARTS).apply(network, job)
    assert [(edit.module, edit.method) for edit in made.slices] == [("2", "grouped"), ("4", "channel"), ("8", "channel")]
    assert any(note.startswith("2 became grouped blocks (24x1x3x3") for note in made.notes)


def test_one_pass_mends_what_steps_in_turn_do_not(network: Network, job: Job) -> None:
    inputs, _ = job.data.test.first(64)
    wanted = network.outputs(*inputs)[0]
    turns = Recipe((Substitute(kind="separable", ratio=0.4, include=("2",), samples=64), PARTS[0])).apply(network, job)
    once = Lighten(parts=PARTS).apply(network, job)
    missed = [float((each.outputs(*inputs)[0] - wanted).square().mean()) for each in (once, turns)]
    assert missed[0] < missed[1]


def test_parts_that_decide_over_all_layers_are_refused() -> None:
    for part in (Factorize(macs=0.5), Substitute(kind="narrow"), PruneWeights(sparsity=0.5)):
        with pytest.raises(UsageError, match="it takes Factorize by ratio"):
            Lighten(parts=(part,))
