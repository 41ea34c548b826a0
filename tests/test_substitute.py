"""Substitute: each kind takes a convolution's place, keeps its ratio, imitates its outputs, and says what it left alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data
from lissom.deploy import deploy, verify
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.substitute import Substitute
from lissom.train.losses import default_loss

KINDS: tuple[Literal["separable", "grouped", "bottleneck"], ...] = ("separable", "grouped", "bottleneck")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3),
    )  # fmt: skip
    return Network(module, (torch.zeros(2, 3, 10, 10),))


@pytest.fixture
def job(network: Network) -> Job:
    images = np.random.default_rng(1).normal(size=(160, 3, 10, 10)).astype(np.float32)
    data = Data.of(Arrays((images,)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_smaller_and_imitates(kind: Literal["separable", "grouped", "bottleneck"], network: Network, job: Job) -> None:
    made = Substitute(kind=kind, ratio=0.6, include=("3",)).apply(network, job)
    assert [edit.module for edit in made.slices] == ["3"]
    block = made.module.get_submodule("3")
    assert sum(each.numel() for each in block.parameters()) < 0.65 * 16 * 12 * 9
    inputs, _ = job.data.test.first(32)
    with torch.no_grad():
        before = network.module[:3](*inputs)
        wanted, found = network.module[3](before), block(before)
    assert float((found - wanted).square().mean()) < 0.6 * float((wanted - wanted.mean(0)).square().mean())
    assert verify(deploy(made), made, [inputs]).holds


def test_separable_takes_as_many_kernels_as_the_ratio_allows(network: Network, job: Job) -> None:
    few = Substitute(kind="separable", ratio=0.2, include=("3",)).apply(network, job)
    many = Substitute(kind="separable", ratio=0.9, include=("3",)).apply(network, job)
    assert few.module.get_submodule("3")[0].weight.shape == (12, 1, 3, 3)
    assert many.module.get_submodule("3")[0].weight.shape == (60, 1, 3, 3)


def test_what_a_kind_does_not_fit_is_named(network: Network, job: Job) -> None:
    made = Substitute(kind="separable").apply(network, job)
    assert any("5 was left alone: grouped blocks need a kernel of k" in note for note in made.notes)
    assert any("8 was left alone" in note for note in made.notes)


def test_channels_between_two_layers_go(network: Network, job: Job) -> None:
    made = Substitute(kind="narrow", ratio=0.5, include=("8",)).apply(network, job)
    assert made.module.get_submodule("8").weight.shape == (12, 64)
    assert made.module.get_submodule("10").weight.shape == (3, 12)
    assert made.module.get_submodule("3").weight.shape == (16, 12, 3, 3)


def test_a_depthwise_kernel_between_two_layers_goes_with_its_channels(job: Job) -> None:
    torch.manual_seed(0)
    inverted = [nn.Conv2d(3, 24, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU()]
    network = Network(
        nn.Sequential(*inverted, nn.Conv2d(24, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (torch.zeros(2, 3, 8, 8),)
    )
    made = Substitute(kind="narrow", ratio=0.5, samples=32).apply(network, job)
    assert made.module.get_submodule("3").weight.shape == (12, 1, 3, 3)
    assert "5 reads 12 of the 24 channels that it read" in made.notes
