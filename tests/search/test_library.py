"""The library measures each variant once, and what it chooses keeps the limit and loses less than one choice everywhere."""

from __future__ import annotations

import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data
from lissom.errors import ModelRefused
from lissom.factorize import Factorize
from lissom.graph.capture import capture
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.search.library import Library
from lissom.search.variants import variants
from lissom.train.losses import default_loss


@pytest.fixture
def network() -> Network:
    """One convolution of rank two and one of full rank: only the first can be factored without loss."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    with torch.no_grad():
        first.weight.copy_((torch.randn(16, 2) @ torch.randn(2, 36)).reshape(16, 4, 3, 3) / 6)
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
    return Network(module, (torch.zeros(2, 4, 8, 8),))


@pytest.fixture
def job(network: Network, tmp_path: Path) -> Job:
    images = np.random.default_rng(1).normal(size=(160, 4, 8, 8)).astype(np.float32)
    data = Data.of(Arrays((images,)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, checkpoints=tmp_path)


def library_of(network: Network, job: Job, *, every: int = 4) -> Library:
    """Some of the variants: whole layers, some factors and blocks, and channels between the convolutions."""
    found = list(variants(network, job, 24))
    some = [each for number, each in enumerate(found) if not each.steps or number % every == 1 or "narrow 0.5" in each.name]
    return Library(network, job, tuple(some), samples=24)


def test_the_choice_keeps_the_limit_and_beats_one_choice_everywhere(network: Network, job: Job) -> None:
    library = library_of(network, job)
    choice = library.best("macs", 0.75)
    assert choice.met
    made = choice.recipe.apply(network, job)
    assert choice.measured.macs == capture(made).macs <= 0.751 * capture(network).macs
    assert choice.measured.divergence <= library.measured((Factorize(ratio=0.7, samples=24),)).divergence


def test_measurements_are_kept_and_workers_agree(network: Network, job: Job, tmp_path: Path) -> None:
    in_turn = library_of(network, job, every=6).entries()
    with ThreadPoolExecutor(2) as workers:
        assert library_of(network, dataclasses.replace(job, checkpoints=None), every=6).entries(workers) == in_turn
    kept = sorted((tmp_path / "library").iterdir())
    assert len(kept) == len({variant.covers for variant in library_of(network, job, every=6).variants})
    before = [path.stat().st_mtime_ns for path in kept]
    assert library_of(network, job, every=6).entries() == in_turn
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_limit_that_nothing_meets_gives_the_closest(network: Network, job: Job) -> None:
    choice = library_of(network, job, every=9).best("parameters", 0.001)
    assert not choice.met
    assert choice.variants


def test_a_network_without_layers_is_refused(job: Job) -> None:
    with pytest.raises(ModelRefused, match="no layer of the network"):
        Library(Network(nn.Sequential(nn.ReLU()), (torch.zeros(2, 4, 8, 8),)), job, ()).best("macs", 0.5)


def test_the_page_tells_how(network: Network, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "light.md").read_text(encoding="utf-8")
    names = {"network": network, "job": dataclasses.replace(job, checkpoints=None)}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1].replace("256", "24"), names)
    assert capture(names["smaller"]).macs <= 0.51 * capture(network).macs
    assert "was chosen: by itself it moves the outputs by" in capsys.readouterr().out
