"""Evidence: everything that is measured of the file that was chosen, on the split that chose nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lissom import edits
from lissom.codec import decode, encode
from lissom.codec.tensors import Quantized
from lissom.errors import ModelRefused
from lissom.graph.capture import Graph, capture
from lissom.graph.cost import layer_costs
from lissom.measure.machine import machine, versions
from lissom.measure.memory import peak_memory
from lissom.measure.profile import layer_seconds
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.report.record import (
    BeforeAfter,
    Bytes,
    Latency,
    Layer,
    Limit,
    MetricFigures,
    Parity,
    Percentiles,
    Record,
    Trial,
    histograms,
)
from lissom.search.bisection import Candidate
from lissom.search.limits import Goal, Limits, Ship
from lissom.search.trial import Outcome, Trials, runtime_of

__all__ = ["gather"]

FASTER = 1.02
"""What a candidate must win in time for being faster to be more than the noise of two measurements."""
AS_IT_IS = Recipe().in_words()


def gather(
    trials: Trials,
    chosen: Candidate,
    made: Network,
    outcomes: Sequence[Outcome],
    *,
    limits: Limits,
    goal: Goal,
    seed: int,
    command: str,
    seconds: float,
) -> Record:
    """Measure the chosen file on the test split, and put down every figure with how it was measured.

    Args:
        trials: What made the candidates; the original and its file are there.
        chosen: The candidate that won.
        made: Its network.
        outcomes: Of every candidate, in the order tried.
        limits: What the user can spare.
        goal: ``"size"`` or ``"latency"``.
        seed: Of the job.
        command: What makes this result again.
        seconds: How long the search took.
    """
    started = time.monotonic()
    outcome = next(outcome for outcome in outcomes if outcome.name == chosen.name)
    # What was decided by measuring is written down, so that following the recipe gives the same file.
    deploy = dataclasses.replace(chosen.recipe.deploy, **outcome.choices)
    metric = _metric(trials, chosen, limits)
    latency = _latency(trials, chosen)
    before, after = _graph(trials.network), _graph(made)
    sizes = Bytes(source=_source_bytes(trials.network), onnx=outcome.onnx, archive=outcome.archive, weights_only=outcome.weights)
    return Record(
        model=trials.network.source.location or type(trials.network.module).__name__,
        metric=metric,
        bytes=sizes,
        parameters=BeforeAfter(before=_parameters(trials.network), after=_parameters(made)),
        goal=goal,
        ship=trials.ship,
        recipe=dataclasses.replace(chosen.recipe, deploy=deploy).to_dict(),
        machine=machine(),
        versions=versions(),
        seed=seed,
        seconds=seconds + time.monotonic() - started,
        ratio=_floating_bytes(trials.network) / outcome.weights if outcome.weights else None,
        latency=(latency,),
        macs=None if before is None or after is None else BeforeAfter(before=before.macs, after=after.macs),
        peak_memory=_peak_memory(trials, chosen),
        parity=() if outcome.parity is None else (Parity(**outcome.parity),),
        limits=tuple(_limits(limits, metric, outcome.shipped(trials.ship), latency, seconds)),
        trials=tuple(
            _trial(entry, chosen, limits, trials.ship, goal, front=_front(entry, outcomes, trials.ship)) for entry in outcomes
        ),
        layers=tuple(_layers(trials.network, *_sides(trials, chosen, made, before, after))),
        notes=tuple(dict.fromkeys((*chosen.reasons, *made.notes, *outcome.notes, *_what_did_not_pay(outcomes, outcome, goal)))),
        command=command,
    )


def _metric(trials: Trials, chosen: Candidate, limits: Limits) -> MetricFigures:
    split, metric = trials.job.data.test, trials.job.metric
    reference = trials.outputs_of_original(split)
    before = trials.score_original(split, reference)
    after, _ = trials.score(trials.workspace.trial(chosen.name) / "model.onnx", split, reference, runtime_of(chosen.recipe))
    drop = before.drop_to(after)
    return MetricFigures(
        name=metric.name,
        unit=metric.unit,
        split=split.name,
        n=len(split),
        before=before.value,
        after=after.value,
        drop=drop.value,
        standard_error=drop.standard_error,
        undecided=limits.max_drop is not None and drop.undecided(limits.max_drop),
        higher_is_better=metric.higher_is_better,
    )


def _latency(trials: Trials, chosen: Candidate) -> Latency:
    timing = trials.time(trials.workspace.trial(chosen.name) / "model.onnx", runtime_of(chosen.recipe))
    return Latency(
        runtime=timing.runtime,
        threads=timing.threads,
        batch=timing.batch,
        before_ms=Percentiles(p10=timing.before.p10 * 1e3, p50=timing.before.p50 * 1e3),
        after_ms=Percentiles(p10=timing.after.p10 * 1e3, p50=timing.after.p50 * 1e3),
        ratio=timing.ratio,
        runs=timing.calls,
        cpu=timing.cpu,
        stable=timing.stable,
    )


def _files(trials: Trials, chosen: Candidate) -> tuple[Path, Path]:
    """The original's file and the chosen one."""
    return trials.original_file, trials.workspace.trial(chosen.name) / "model.onnx"


def _peak_memory(trials: Trials, chosen: Candidate) -> BeforeAfter | None:
    before, after = (peak_memory(file, trials.sample) for file in _files(trials, chosen))
    return None if before is None or after is None else BeforeAfter(before=before, after=after)


def _limits(limits: Limits, metric: MetricFigures, shipped: int | None, latency: Latency, seconds: float) -> Iterable[Limit]:
    """The limits that were given, against the test split and the files; times in milliseconds and seconds."""
    given = {
        "max_drop": (limits.max_drop, metric.drop),
        "max_size": (limits.max_size, shipped),
        "max_latency": (None if limits.max_latency is None else limits.max_latency * 1e3, latency.after_ms.p10),
    }
    for name, (limit, measured) in given.items():
        if limit is not None:
            yield Limit(name=name, limit=limit, measured=measured, met=measured is not None and measured <= limit)
    if limits.max_time is not None:  # work stops at the limit; what is measured after it is no breach
        yield Limit(name="max_time", limit=limits.max_time, measured=seconds, met=True)


def _front(outcome: Outcome, outcomes: Iterable[Outcome], ship: Ship) -> bool:
    """Whether no other outcome is as small and as good, and better in one of the two."""
    ours = (outcome.shipped(ship), outcome.drop)
    if outcome.refused_because or ours[0] is None or ours[1] is None:
        return False
    for other in outcomes:
        theirs = (other.shipped(ship), other.drop)
        if other.refused_because or theirs[0] is None or theirs[1] is None or theirs == ours:
            continue
        if theirs[0] <= ours[0] and theirs[1] <= ours[1]:
            return False
    return True


def _no_faster(outcome: Outcome, goal: Goal) -> str:
    """Why an outcome does not pay, where speed is what was asked for; empty where it does."""
    if goal != "latency" or outcome.latency is None or outcome.latency_before is None or not outcome.recipe:
        return ""
    if outcome.latency < outcome.latency_before / FASTER:
        return ""
    return f"no faster: {1e3 * outcome.latency:.3g} ms, and the original takes {1e3 * outcome.latency_before:.3g} ms"


def _what_did_not_pay(outcomes: Sequence[Outcome], chosen: Outcome, goal: Goal) -> Iterable[str]:
    """Sentences about candidates that were dropped because they are no faster, and about a result that is none."""
    for outcome in outcomes:
        if outcome is not chosen and outcome.recipe != AS_IT_IS and (reason := _no_faster(outcome, goal)):
            yield f"{outcome.name} was dropped: it is {reason}"
    if _no_faster(chosen, goal):
        yield "nothing that was tried is faster within the limits: more data, a wider limit or more time would give more room"


def _trial(outcome: Outcome, chosen: Candidate, limits: Limits, ship: Ship, goal: Goal, *, front: bool) -> Trial:
    over = outcome.excess(limits, ship)
    slower = "" if outcome.name == chosen.name or outcome.recipe == AS_IT_IS else _no_faster(outcome, goal)
    return Trial(
        name=outcome.name,
        recipe=outcome.recipe,
        metric=outcome.metric,
        drop=outcome.drop,
        bytes=outcome.shipped(ship),
        latency_ms=None if outcome.latency is None else outcome.latency * 1e3,
        seconds=outcome.seconds,
        kept=outcome.name == chosen.name,
        front=front,
        refused_because=outcome.refused_because or ", ".join(_exceeds(name, outcome, limits, ship) for name in over) or slower,
    )


def _exceeds(name: str, outcome: Outcome, limits: Limits, ship: Ship) -> str:
    """What a candidate has too much of, in words."""
    if name == "max_drop":
        bound, allowed = (100 * (value or 0) for value in (outcome.largest_drop, limits.max_drop))
        return f"lost {100 * (outcome.drop or 0):.2f} % on validation, which may be {bound:.2f} %; {allowed:.2f} % allowed"
    if name == "max_size":
        return f"{outcome.shipped(ship):,} bytes, {limits.max_size:,.0f} allowed"
    return f"{1e3 * (outcome.latency or 0):.3f} ms, {1e3 * (limits.max_latency or 0):.3f} ms allowed"


@dataclass(frozen=True)
class _Side:
    """What is known of the layers of one of the two networks: tensors as trained and as stored, work and time."""

    tensors: dict[str, dict[str, Any]]
    stored: dict[str, dict[str, Any]]
    macs: dict[str, int]
    seconds: dict[str, float]


def _side(network: Network, file: Path, graph: Graph | None, trials: Trials, archive: Path | None = None) -> _Side:
    tensors = _by_module(edits.tensors(network.module))
    stored = tensors if archive is None else _by_module(decode(archive.read_bytes()).tensors)
    macs = {} if graph is None else {layer.module: layer.macs for layer in layer_costs(graph)}
    return _Side(tensors, stored, macs, layer_seconds(file, trials.sample, tensors))


def _sides(trials: Trials, chosen: Candidate, made: Network, before: Graph | None, after: Graph | None) -> tuple[_Side, _Side]:
    """The layers before and after; those of an integer file are stored as its own levels, not as the network's floats."""
    folder = trials.workspace.trial(chosen.name)
    archive = None if chosen.recipe.deploy.precision == "float32" else folder / "model.lissom"
    return (
        _side(trials.network, trials.original_file, before, trials),
        _side(made, folder / "model.onnx", after, trials, archive),
    )


def _layers(network: Network, before: _Side, after: _Side) -> Iterable[Layer]:
    """One row for each module with a weight of at least two axes, as it was and as it is."""
    kinds = {name: type(part).__name__.removeprefix("Parametrized") for name, part in network.module.named_modules()}
    for module, tensors in before.tensors.items():
        weight = max(tensors.values(), key=lambda tensor: tensor.size)
        if weight.ndim < 2:
            continue
        kept, stored = after.tensors.get(module, {}), after.stored.get(module, {})
        now = {name: _dense(tensor) for name, tensor in kept.items()}
        largest = max(now.values(), key=lambda tensor: tensor.size) if now else np.zeros(0, np.float32)
        coded = len(encode(stored)) if stored else 0
        drawn = histograms(weight, largest) if now else (None, None)
        yield Layer(
            name=module or "(network)",
            kind=kinds.get(module, ""),
            shape=largest.shape if now else weight.shape,
            parameters=BeforeAfter(before=sum(t.size for t in tensors.values()), after=sum(t.size for t in now.values())),
            bytes_before=sum(4 * tensor.size for tensor in tensors.values()),
            bytes_after=coded,
            sparsity=float((largest == 0).mean()) if largest.size else 0.0,
            bits=8 * coded / sum(tensor.size for tensor in now.values()) if stored and now else None,
            macs=BeforeAfter(before=before.macs[module], after=after.macs.get(module, 0)) if module in before.macs else None,
            ms_before=_milliseconds(before.seconds.get(module)),
            ms_after=_milliseconds(after.seconds.get(module)),
            histogram_before=drawn[0],
            histogram_after=drawn[1],
        )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _by_module(tensors: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Floating tensors by the module that holds them, all by the user's names, tied ones under their first name only."""
    found: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        floating = isinstance(tensor, Quantized) or np.issubdtype(tensor.dtype, np.floating)
        if floating and id(tensor) not in seen:
            seen.add(id(tensor))
            known = edits.users_name(name)
            found.setdefault(known.rpartition(".")[0], {})[known] = tensor
    return found


def _dense(tensor: Any) -> np.ndarray[Any, Any]:
    return np.asarray(tensor.dense() if isinstance(tensor, Quantized) else tensor)


def _graph(network: Network) -> Graph | None:
    """The graph, for its MACs; None where it cannot be captured, which costs the report a column and nothing else."""
    try:
        return capture(network)
    except ModelRefused:
        return None


def _parameters(network: Network) -> int:
    return sum(parameter.numel() for _, parameter in edits.weights(network.module))


def _floating_bytes(network: Network) -> int:
    """Bytes in float32 of every floating tensor, tied ones once: what a ratio counts."""
    return sum(4 * tensor.size for tensors in _by_module(edits.tensors(network.module)).values() for tensor in tensors.values())


def _source_bytes(network: Network) -> int:
    file = Path(network.source.location)
    return file.stat().st_size if network.source.location and file.is_file() else _floating_bytes(network)
