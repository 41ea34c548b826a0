"""Lighter candidates: chosen from the library, trained, told apart in the report; the same again when a job resumes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

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
from lissom.search.limits import Goal, Limits
from lissom.search.policy import lighter, lighter_recipe
from lissom.train.losses import default_loss


@pytest.fixture
def network() -> Network:
    """Its first layer has rank four."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 4))
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(64, 4) @ torch.randn(4, 32) / 10)
    return Network(module, (torch.zeros(2, 32),))


def inputs_of(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 32)).astype(np.float32)


@pytest.fixture
def job(network: Network, tmp_path: Path) -> Job:
    data = Data.of(Arrays((inputs_of(200),)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, checkpoints=tmp_path)


def test_candidates_are_the_same_when_a_job_resumes(network: Network, job: Job, tmp_path: Path) -> None:
    one = Network(nn.Sequential(nn.Linear(32, 64), nn.ReLU()), network.example_inputs)  # each variant is timed: have few
    goals: tuple[tuple[Goal, Network], ...] = (("latency", one), ("size", network))
    for goal, given in goals:
        made = [
            Lighter(
                given,
                dataclasses.replace(job, teacher=given, checkpoints=tmp_path / goal),
                goal,
                partial(lighter_recipe, epochs=1, goal=goal, limits=Limits()),
                32,
            )
            for _ in range(2)
        ]
        first, again = [search.ask() for search in made]
        assert first == again
        if goal == "latency" and first is None:
            continue  # on this machine, no part of so small a network is faster than what it replaces
        assert first is not None
        assert Recipe.from_yaml(first.recipe.to_yaml()) == first.recipe
        assert len(first.reasons) >= 1
        assert "was chosen: by itself it moves the outputs by" in first.reasons[0]
        made[0].tell(turn_further=False)
        assert made[0].ask() is None


def test_the_jobs_executor_measures_layers(network: Network, job: Job) -> None:
    class Counting(ThreadPoolExecutor):
        given = 0

        def submit(self, *arguments: Any, **named: Any) -> Any:
            self.given += 1
            return super().submit(*arguments, **named)

    after = partial(lighter_recipe, epochs=1, goal="size", limits=Limits())
    in_turn = Lighter(network, dataclasses.replace(job, checkpoints=None), "size", after, 32).ask()
    with Counting(2) as workers:
        shared = dataclasses.replace(job, checkpoints=None, executor=workers)
        assert Lighter(network, shared, "size", after, 32).ask() == in_turn
    assert workers.given == 3  # linear layers


def test_small_networks_have_no_library(network: Network, job: Job) -> None:
    assert isinstance(lighter("size", network, job, Limits()), Fixed)
    large = Network(nn.Sequential(nn.Linear(32, 32_000), nn.Linear(32_000, 2)), network.example_inputs)
    assert isinstance(lighter("size", large, job, Limits()), Lighter)


def test_the_job_tries_them(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.search.policy.LIGHT", {"size": 0, "latency": 0})
    monkeypatch.setattr("lissom.search.policy.ROUNDS", 0)
    monkeypatch.setattr("lissom.search.policy.TRAINING_SAMPLES", {"size": 100, "latency": 100})
    result = lissom.compress(network, inputs_of(120), out=tmp_path / "out", max_drop=0.9)
    tried = {trial.name: trial.recipe for trial in result.record.trials}
    assert "Lighten(parts=(Factorize(" in tried["lighter 0.7"]
    assert "Lighten(parts=(Factorize(" in tried["lighter 0.45"]


def test_the_report_says_what_became_what(network: Network, tmp_path: Path) -> None:
    steps = [lissom.Lighten(parts=[lissom.Factorize(ratio=0.25, include=("0", "2"))])]
    result = lissom.compress(network, inputs_of(120), out=tmp_path / "out", recipe=steps)
    assert any(note.startswith("0 became channel blocks (") for note in result.record.notes)
    assert Recipe.from_dict(result.record.recipe).steps == tuple(steps)
