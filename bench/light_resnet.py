"""ResNet-20 at half its multiply-accumulates: what the search chooses, beside one kind and ratio in every layer.

Both sides get the same: each way is made from the trained network, trained on one image of twenty, and the best by
validation accuracy is made again and trained on all of them. The test images are read once for each side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import ROOT, Bench
from lissom.factorize import Factorize
from lissom.factorize.ranks import macs_of
from lissom.factorize.replacing import Places, no_gain
from lissom.graph.blocks import block
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.job import Job, Step
from lissom.network import Network, Preprocess
from lissom.recipe import Recipe
from lissom.search.library import Library
from lissom.search.variants import Variant, variants
from lissom.substitute import Substitute, pair
from structured import FINETUNE, accuracy, make_job, original

__all__ = ["CHOSEN", "UNIFORM", "figures", "rows"]

FACTOR = 2.0
SAMPLES = 128
PILOT = 20
"""A pilot trains on one image of so many."""

UNIFORM = ("channel", "spatial", "tucker", "separable", "grouped", "narrow")
"""One of these in every layer that it fits, at the ratio that meets the multiply-accumulates."""

CHOSEN: dict[str, Callable[[Variant], bool]] = {
    "all": lambda _: True,
    "widths": lambda variant: not variant.steps or len(variant.covers) > 1,
}
"""Exact choices among these parts of the library."""


@functools.cache
def setting(seed: int, *, quick: bool) -> tuple[Network, Job]:
    """The trained network and its job."""
    torch.set_num_threads(1)
    network = original()
    job = make_job(seed, network.preprocess or Preprocess(), quick=quick)
    return network, dataclasses.replace(job, teacher=network)


def trained(network: Network, job: Job, *, every: int = 1) -> Network:
    """The network after the training budget of [structured], on one training image of ``every``."""
    train = dataclasses.replace(job.data.train, numbers=job.data.train.numbers[::every])
    job = dataclasses.replace(job, data=dataclasses.replace(job.data, train=train))
    assert job.teacher is not None
    for each in (network, job.teacher):  # nearly twice as fast for convolutions on a CPU
        each.module.to(memory_format=torch.channels_last)
    return FINETUNE.apply(network, job)


def uniform_step(kind: str, ratio: float) -> Any:
    """The kind in every layer that it fits."""
    if kind in ("channel", "spatial", "tucker"):
        return Factorize(method=kind, ratio=ratio, samples=SAMPLES, exclude=("fc",))
    return Substitute(kind=kind, ratio=ratio, samples=SAMPLES, exclude=("fc",))


def uniform_ratio(kind: str, network: Network, job: Job) -> float:
    """The largest ratio at which the network has at most 1/FACTOR of its multiply-accumulates."""
    graph = capture(network)
    if kind == "narrow":
        work = dict(_work(network, job))
        pairs = {each.rpartition(".")[0] for group in groups(graph) for each in pair(network, group)}
        return round(1 - (1 - 1 / FACTOR) * graph.macs / sum(work[path] for path in pairs), 4)
    low, high = 0.02, 0.98
    for _ in range(12):
        middle = (low + high) / 2
        fits = _uniform_macs(uniform_step(kind, middle), network, job) <= graph.macs / FACTOR
        low, high = (middle, high) if fits else (low, middle)
    return round(low, 4)


def _work(network: Network, job: Job) -> Iterator[tuple[str, int]]:
    places = Places.of(network, job, "channel", samples=2)
    yield from ((path, macs_of(nn.Sequential(places.layer(path)), places.arrived(path))) for path in places.paths)


def _uniform_macs(step: Any, network: Network, job: Job) -> int:
    places = Places.of(network, job, step.method, samples=2, exclude=step.exclude)
    total = sum(work for _, work in _work(network, job))
    for path in places.paths:
        layer, arrived = places.layer(path), places.arrived(path)
        method, sizes = step.block_for(path, layer, None)
        if not no_gain(layer, method, sizes):
            total += macs_of(block(layer, method, sizes), arrived) - macs_of(nn.Sequential(layer), arrived)
    return total


def uniform(kind: str, seed: int, *, quick: bool) -> tuple[Network, dict[str, Any]]:
    """The network with one kind everywhere, and the recipe."""
    network, job = setting(seed, quick=quick)
    step = uniform_step(kind, uniform_ratio(kind, network, job))
    return step.apply(network, job), {"recipe": Recipe((step,)).to_dict()["steps"]}


def chosen(part: str, seed: int, *, quick: bool) -> tuple[Network, dict[str, Any]]:
    """The network that the exact choice among a part of the library makes, and what it chose."""
    network, job = setting(seed, quick=quick)
    cache = None if quick else Path(ROOT / "bench" / "cache" / "light" / str(seed))
    ratios = (0.25, 0.7) if quick else (0.25, 0.45, 0.7)
    some = tuple(filter(CHOSEN[part], variants(network, job, SAMPLES, ratios=ratios, least=0.03)))
    library = Library(network, dataclasses.replace(job, checkpoints=cache), some, samples=SAMPLES)
    found = library.best("macs", 1 / FACTOR)
    steps: tuple[Step, ...] = found.recipe.steps
    told = {"recipe": found.recipe.to_dict()["steps"], "estimate": found.estimate, "divergence": found.measured.divergence}
    return Recipe(steps).apply(network, job), {**told, "met": found.met}


SIDES: dict[str, tuple[tuple[str, ...], Callable[..., tuple[Network, dict[str, Any]]]]] = {
    "uniform": (UNIFORM, uniform),
    "chosen": (tuple(CHOSEN), chosen),
}


def pilot(side: str, way: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """One way of one side, trained on one image of twenty."""
    network, job = setting(seed, quick=quick)
    made, told = SIDES[side][1](way, seed, quick=quick)
    row = {"macs_factor": round(capture(network).macs / capture(made).macs, 4), **told}
    row["untrained_validation"] = accuracy(made, job.data.validation, job)
    return row | {"validation_accuracy": accuracy(trained(made, job, every=PILOT), job.data.validation, job)}


def full(side: str, bench: Bench, seed: int, *, quick: bool) -> dict[str, Any]:
    """The side's best way by the pilots' validation accuracy, trained in full; the test split is read here."""
    network, job = setting(seed, quick=quick)
    pilots = [row for row in bench.rows if (row["row"], row["seed"]) == (f"{side} pilot", seed)]
    best = max(pilots, key=lambda row: row["validation_accuracy"] if row["macs_factor"] >= FACTOR * 0.999 else 0.0)
    made, _ = SIDES[side][1](best["way"], seed, quick=quick)
    factor = round(capture(network).macs / capture(made).macs, 4)
    made = trained(made, job, every=PILOT if quick else 1)
    return {
        "way": best["way"],
        "macs_factor": factor,
        "validation_accuracy": accuracy(made, job.data.validation, job),
        "test_accuracy": accuracy(made, job.data.test, job),
        "test_accuracy_before": accuracy(network, job.data.test, job),
    }


def rows(bench: Bench, seed: int, only: str, *, quick: bool) -> None:
    """Make the rows of one seed that are missing and whose name holds ``only``."""
    for side, (ways, _) in SIDES.items():
        for way in ways[:2] if quick else ways:
            if only in f"resnet20 {side} pilot {way}":
                key = {"row": f"{side} pilot", "way": way, "seed": seed}
                bench.row(key, functools.partial(pilot, side, way, seed, quick=quick))
        if only in f"resnet20 {side} full":
            bench.row({"row": f"{side} full", "seed": seed}, functools.partial(full, side, bench, seed, quick=quick))


def figures(found: list[dict[str, Any]]) -> dict[str, float | None]:
    """Points lost by the search's choice, and points above the best uniform choice: means over the seeds that have both."""
    sides = {side: {row["seed"]: row for row in found if row["row"] == f"{side} full"} for side in SIDES}
    met = {seed: row for seed, row in sides["chosen"].items() if row["macs_factor"] >= FACTOR * 0.999}
    lost = [100 * (row["test_accuracy_before"] - row["test_accuracy"]) for row in met.values()]
    gains = [
        100 * (row["test_accuracy"] - sides["uniform"][seed]["test_accuracy"])
        for seed, row in met.items()
        if seed in sides["uniform"]
    ]
    return {
        "resnet20_2x_drop": round(sum(lost) / len(lost), 3) if lost else None,
        "search_gain": round(sum(gains) / len(gains), 3) if gains else None,
        "resnet20_seeds": float(len(gains)),
    }
