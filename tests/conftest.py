"""What every room's tests share: small networks with small data, and where the data beside the project lies."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data, load_data
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.train.losses import default_loss

os.environ["COLUMNS"] = "400"  # rich reads it when its console is made: no line is broken, however long a temporary path is

# A first call loads rooms, and a busy machine is slow: what takes long is no failure.
hypothesis.settings.register_profile("lissom", deadline=None)
hypothesis.settings.load_profile("lissom")

SHARED = Path(os.environ.get("LISSOM_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the global state


@pytest.fixture
def shared() -> Path:
    """The folder of data and networks beside the project; the test is skipped where it is missing."""
    if not SHARED.exists():
        pytest.skip(f"needs the shared data in {SHARED} (set LISSOM_SHARED)")
    return SHARED


def blobs(count: int = 400, features: int = 12, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about one centre for each class: learnable in a second."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, features)) * 1.2
    labels = random.integers(0, classes, count)
    points = centres[labels] + random.normal(size=(count, features))
    return points.astype(np.float32), labels.astype(np.int64)


def fit(module: nn.Module, points: np.ndarray, labels: np.ndarray, *, learning_rate: float, steps: int) -> None:
    """Train ``module`` in place on all points at once."""
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(points)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture
def classifier() -> Network:
    """A small trained-enough network: two linear layers on 12 features, 4 classes."""
    module = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4))
    points, labels = blobs()
    fit(module, points, labels, learning_rate=1e-2, steps=60)
    return Network(module, (torch.zeros(2, 12),))


@pytest.fixture
def labelled() -> Data:
    """Labelled samples for :func:`classifier`."""
    points, labels = blobs()
    return Data.of(Arrays((points,), labels), seed=0)


@pytest.fixture
def job(classifier: Network, labelled: Data) -> Job:
    """A job over :func:`labelled` whose teacher is :func:`classifier`."""
    data = load_data(labelled, classifier)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=classifier)
