"""What a change does to a network's time is told by the parts that changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data
from lissom.deploy import Deploy, deploy
from lissom.factorize import Factorize
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.search.part_times import PartTimes
from lissom.substitute import Substitute
from lissom.train.losses import default_loss

IMAGES = np.random.default_rng(1).normal(size=(160, 4, 16, 16)).astype(np.float32)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(4, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3),
    ]  # fmt: skip
    return Network(nn.Sequential(*layers).eval(), (torch.zeros(2, 4, 16, 16),))


@pytest.fixture
def job(network: Network) -> Job:
    data = Data.of(Arrays((IMAGES,)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


@pytest.mark.parametrize("settings", [Deploy(), Deploy(precision="int8", target="onnxruntime-cpu", ranges="minmax")])
def test_only_what_changed_counts(network: Network, job: Job, settings: Deploy) -> None:
    def file(made: Network) -> bytes:
        return deploy(made, settings, [(torch.from_numpy(IMAGES[:32]),)]).to_bytes()

    times = PartTimes(network, file(network), [IMAGES[:1]])
    assert times.changed(network) == []
    assert times.share(network, file(network)) == 1.0
    assert {path for path, seconds in times.seconds.items() if seconds > 0} == {"0", "3", "7"}  # the normalisation is folded
    factored = Factorize(method="channel", ratio=0.25, samples=24, include=("3",)).apply(network, job)
    assert times.changed(factored) == ["3"]
    narrow = Substitute(kind="narrow", ratio=0.5, samples=24, include=("0",)).apply(network, job)
    assert times.changed(narrow) == ["0", "1", "3"]
    for made in (factored, narrow):
        assert times.share(made, file(made)) > 0
    now = times._seconds_of(file(factored))  # the block's nodes are counted where the layer stood
    assert {path for path, seconds in now.items() if seconds > 0} == {"0", "3", "7"}
