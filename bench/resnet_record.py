"""ResNet-20 against the file: a curve of sizes in one training, each point trained on from the last.

The normalisations are folded first, so that an archive holds weights and biases only. 4,000 of the training images, the same for
every point, are held out; the original has seen them, so the test error lies above theirs. By how much is measured once, at
the largest file, and fixed from there: a smaller file is the operating point if its held-out error plus that gap is within
the limit.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

import structured
from lissom.deploy.fold import fold_batch_norm
from lissom.job import Job
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.rate import Rate

__all__ = ["SIZES", "drop_ratio", "folded", "job_of", "points"]

TRAIN, HELD_OUT = 46_000, 4_000
SIZES = (54_000, 46_000, 38_000, 31_000, 26_000)
"""Bytes to arrive at."""

EPOCHS = 3
"""Of each point, from the one before."""

DROP = 0.01


def folded(network: Network) -> Network:
    """A copy whose normalisations are part of its convolutions."""
    module = copy.deepcopy(network.module)
    fold_batch_norm(module, network.example_inputs)
    return dataclasses.replace(network, module=module)


def job_of(seed: int, network: Network) -> Job:
    """All training images, flipped and shifted at random, but for those held out; the original teaches."""
    assert network.preprocess is not None
    job = structured.make_job(seed, network.preprocess, quick=False, train=TRAIN, validation=HELD_OUT)
    return dataclasses.replace(job, teacher=network)


def points(size: int) -> Recipe:
    """The steps to ``size``: those of every larger size, then its own."""
    return Recipe(tuple(_point(each, warmup=0.2 if each == SIZES[0] else 0.0) for each in SIZES if each >= size))


def _point(size: int, warmup: float) -> Finetune:
    return Finetune(
        epochs=EPOCHS,
        batch_size=128,
        learning_rate=1.5e-3,
        optimizer=Optimizer(warmup=0.05),
        distill=Distill(temperature=4.0, weight=0.9),
        rate=Rate(weight=1.0, max_size=size, warmup=warmup, resolution=2.0, hold=0.0),
    )


def trained(size: int, network: Network, job: Job, checkpoints: Path) -> Network:
    """The network of one point. Convolutions multiply in bfloat16, in the layout that this is fast in; the rest is float32."""
    start = folded(network)
    for part in (start, network):
        part.module.to(memory_format=torch.channels_last)
    # Casts are not kept: inside one long block torch would not see that the weights behind them change.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        return points(size).apply(start, dataclasses.replace(job, checkpoints=checkpoints))


def drop_ratio(rows: list[dict[str, Any]]) -> float | None:
    """The ratio at the operating point, if its drop on the test images is within the limit."""
    curve = sorted((row for row in rows if row["network"] == "resnet20" and "size" in row), key=lambda row: -row["size"])
    if not curve:
        return None
    gap = curve[0]["test_error"] - curve[0]["validation_error"]
    limit = curve[0]["dense_test_error"] + DROP
    within = [curve[0], *(row for row in curve[1:] if row["validation_error"] + gap <= limit)]
    chosen = max(within, key=lambda row: row["ratio"])
    return chosen["ratio"] if chosen["drop"] <= DROP else None
