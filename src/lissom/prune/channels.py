"""PruneChannels: remove whole channels, so that the network is really smaller and faster."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt

from lissom.calibrate.batch_norm import recalibrate_batch_norm
from lissom.calibrate.inputs import calibration_inputs
from lissom.calibrate.reconstruction import RIDGE, reconstruct
from lissom.deploy import deploy
from lissom.errors import UsageError
from lissom.graph.attributes import siblings
from lissom.graph.capture import Graph, capture
from lissom.graph.groups import Group, groups
from lissom.graph.slicing import Removal, remove
from lissom.job import Job, Nested, Step, step
from lissom.network import Network
from lissom.prune.channel_importance import channel_importance
from lissom.prune.channel_selection import ladders
from lissom.prune.channel_targets import Latency, Macs, Ratio, Target
from lissom.prune.dead import remove_dead
from lissom.prune.measured_ladders import measured

__all__ = ["PruneChannels", "mend", "prune"]

MEASURED = 32
"""Calibration samples that removals are measured on."""


@step
class PruneChannels(Step):
    """Remove the least important channels of every coupled group, and mend what is left.

    Channels, heads, hidden units: every index that the graph allows to go. Each removal is proved: the smaller network
    computes what the network with those positions at zero computes, or the group is left alone and named in the notes.
    Exactly one of ``ratio``, ``macs`` and ``latency`` is given.

    Args:
        ratio: Share of all indices that goes; 0 removes only those that are all zero already.
        macs: Multiply-accumulates that may stay, as a share of those that the network has now.
        latency: Time of one call that may stay, as a share of what the network takes now; measured on this machine as
            float files in ONNX Runtime, one sample, one thread.
        importance: ``"l1"``, ``"l2"``, ``"batch_norm"``, ``"taylor"``, ``"fisher"``, ``"activity"`` or ``"entropy"``: see
            :data:`lissom.prune.channel_importance.CHANNEL_IMPORTANCES`.
        scope: ``"global"``: all groups compete; ``"group"``: every group loses the same share.
        multiple: What is left of a group is a multiple of this, where the group has so many: kernels like 8 or 16.
        measured: Set the groups of a global scope beside each other by what the removal of a quarter of each really does to the
            outputs; the importance orders the indices within. A removal and a run for each group.
        least: Share of every group that stays at least, whatever its importance; no layer then becomes very narrow.
        rounds: Go there in so many rounds, each with new importances.
        finetune: What trains the network between rounds, such as ``Finetune(epochs=1)``; None does not train.
        reconstruct: Refit the layers that are left to what the network computed before, by least squares on calibration
            data, and recalibrate batch-norm statistics. Neither needs labels.
        ridge: How strongly refitted layers are held to their weights, relative to the mean square of their inputs. None finds
            it for each layer on samples that it is not fitted on, as some hundred samples for a network of millions of
            parameters need it.
        samples: Calibration samples for importances and mending.

    Raises:
        UsageError: none or several of ratio, macs and latency.
        ModelRefused: the network's graph cannot be captured.

    Example:
        >>> PruneChannels(macs=0.5, importance="fisher").to_dict()
        {'PruneChannels': {'macs': 0.5}}
    """

    ratio: Annotated[float, Ge(0), Lt(1)] | None = None
    macs: Annotated[float, Gt(0), Lt(1)] | None = None
    latency: Annotated[float, Gt(0), Lt(1)] | None = None
    importance: Literal["l1", "l2", "batch_norm", "taylor", "fisher", "activity", "entropy"] = "fisher"
    scope: Literal["global", "group"] = "global"
    measured: bool = False
    multiple: Annotated[int, Gt(0)] = 1
    least: Annotated[float, Ge(0), Lt(1)] = 0.0
    rounds: Annotated[int, Gt(0)] = 1
    finetune: Nested | None = None
    reconstruct: bool = True
    ridge: Annotated[float, Gt(0)] | None = RIDGE
    samples: Annotated[int, Gt(0)] = 512

    def __post_init__(self) -> None:
        given = [name for name in ("ratio", "macs", "latency") if getattr(self, name) is not None]
        if len(given) != 1:
            raise UsageError(f"PruneChannels: {' and '.join(given) or 'no target'} given; give one of ratio, macs and latency")

    def apply(self, network: Network, job: Job) -> Network:
        """The smaller network, and in its notes what was left alone."""
        if self.ratio == 0:
            return remove_dead(network)
        return prune(self, network, job, lambda _, found: list(found))


Candidates = Callable[[Graph, Sequence[Group]], list[Group]]
"""Which of a graph's groups a step may touch."""


def prune(how: Any, network: Network, job: Job, candidates: Candidates) -> Network:
    """Remove indices of the candidate groups round by round, each time by new importances, and mend what is left.

    Args:
        how: A :class:`PruneChannels`, or a step with some of its fields; the others are as by default.
        network: Left as it was.
        job: Data and loss.
        candidates: Which groups may lose indices.
    """
    fields = PruneChannels.__dataclass_fields__
    settings = PruneChannels(**{name: value for name, value in vars(how).items() if name in fields})
    graph = capture(network)
    original, target = network, _target(settings, network, graph, job)
    least = {group.name: max(1, math.ceil(settings.least * group.size - 1e-9)) for group in groups(graph)}
    for number in range(1, settings.rounds + 1):
        job.check_time()
        graph = graph if number == 1 else capture(network)
        removal, notes = _remove(settings, network, graph, job, candidates, target, number / settings.rounds, least)
        if settings.reconstruct and removal.removed:
            mend(removal.network, original, job, settings.samples, settings.ridge)
        network = removal.network.noting(*notes)
        if settings.finetune is not None and number < settings.rounds:
            folder = None if job.checkpoints is None else job.checkpoints / f"round-{number}"
            original = network = settings.finetune.apply(network, dataclasses.replace(job, checkpoints=folder))
    missed = target.missed(network)
    return network.noting(missed) if missed else network


def _target(settings: PruneChannels, network: Network, graph: Graph, job: Job) -> Target:
    if settings.ratio is not None:
        return Ratio(settings.ratio, settings.rounds)
    if settings.macs is not None:
        return Macs(settings.macs, graph.macs)
    return Latency(settings.latency or 1.0, deploy(network).to_bytes(), job.checkpoints)


def _remove(
    settings: PruneChannels,
    network: Network,
    graph: Graph,
    job: Job,
    candidates: Candidates,
    target: Target,
    after: float,
    least: Mapping[str, int],
) -> tuple[Removal, list[str]]:
    """Select and remove; groups that cannot be proved are left out and noted, and the others make up for them."""
    wanted = candidates(graph, groups(graph))
    scores = channel_importance(network.module, wanted, settings.importance, job, samples=settings.samples)
    sets = siblings(graph, network.module, wanted)
    refused: dict[str, str] = {}
    while True:
        left = [some for each in sets if (some := [group for group in each if group.name not in refused])]
        found = ladders(left, scores, settings.multiple, least)
        if settings.measured:
            found = measured(found, network, graph, calibration_inputs(network, job, MEASURED, MEASURED)[0], job.data.task)
        keep = target.select(graph, found, network, scope=settings.scope, after=after)
        removal = remove(network, graph, keep)
        fresh = {name: why for name, why in removal.refused.items() if name not in refused}
        refused.update(fresh)
        if not fresh:
            emptied = [group.name for group in removal.removed if keep[group].sum() == 1]
            notes = [f"{name} was left alone: {why}" for name, why in refused.items()]
            if emptied:
                notes.append(f"one position of {', '.join(emptied)} is kept: a layer is never emptied")
            if not wanted:
                notes.append("no channel can be removed: something fixes every axis (lissom inspect says what)")
            return removal, notes


def mend(network: Network, original: Network, job: Job, samples: int, ridge: float | None = RIDGE) -> None:
    """Refit ``network.module`` in place to ``original`` on calibration data, and recalibrate its batch norms."""
    batches = calibration_inputs(network, job, samples)
    if batches:
        reconstruct(network, original, batches, job.check_time, ridge=ridge)
        recalibrate_batch_norm(network.module, batches)
