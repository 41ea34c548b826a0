"""Lighter candidates: chosen from the library, trained, told apart in the report; the same again when a job resumes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom.data import Arrays, Data
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.search.bisection import Fixed
from lissom.search.lighter import Lighter
from lissom.search.policy import lighter, lighter_recipe
from lissom.train.losses import default_loss


@pytest.fixture
def network() -> Network:
    """Over a million parameters, and a first layer of rank eight."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(512, 1536), nn.ReLU(), nn.Linear(1536, 200), nn.ReLU(), nn.Linear(200, 4))
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(1536, 8) @ torch.randn(8, 512) / 60)
    return Network(module, (torch.zeros(2, 512),))


def inputs_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 512)).astype(np.float32)


@pytest.fixture
def job(network: Network, tmp_path: Path) -> Job:
    data = Data.of(Arrays((inputs_of(200),)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, checkpoints=tmp_path)


def test_candidates_are_the_same_when_a_job_resumes(network: Network, job: Job) -> None:
    for goal in ("latency", "size"):
        made = [Lighter(network, job, goal, partial(lighter_recipe, epochs=1, goal=goal), 32) for _ in range(2)]
        first, again = [search.ask() for search in made]
        assert first is not None
        assert first == again
        assert Recipe.from_yaml(first.recipe.to_yaml()) == first.recipe
        assert len(first.reasons) >= 1
        assert "was chosen: by itself it moves the outputs by" in first.reasons[0]
        made[0].tell(turn_further=False)
        assert made[0].ask() is None


def test_small_networks_have_no_library(network: Network, job: Job) -> None:
    small = Network(nn.Sequential(nn.Linear(512, 4)), network.example_inputs)
    assert isinstance(lighter("size", small, job), Fixed)
    assert isinstance(lighter("size", network, job), Lighter)


def test_the_job_tries_them_and_the_report_says_what_became_what(network: Network, tmp_path: Path) -> None:
    result = lissom.compress(network, inputs_of(120), out=tmp_path / "out", max_drop=0.9, ship="onnx")
    names = [trial.name for trial in result.record.trials]
    assert "lighter 0.7" in names
    assert names[-1] == "lighter 0.45"
    again = lissom.compress(
        network, inputs_of(120), out=tmp_path / "again", recipe=Recipe.from_dict(result.record.recipe), max_drop=0.9, ship="onnx"
    )
    assert again.record.bytes.onnx == result.record.bytes.onnx
