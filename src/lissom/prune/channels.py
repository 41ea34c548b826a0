"""PruneChannels: remove whole channels, so that the network is really smaller and faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from lissom.calibrate.batch_norm import recalibrate_batch_norm
from lissom.calibrate.reconstruction import reconstruct
from lissom.errors import UsageError
from lissom.graph.attributes import siblings
from lissom.graph.capture import Graph, capture
from lissom.graph.groups import Group, groups
from lissom.graph.slicing import Removal, remove
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.prune.channel_importance import channel_importance
from lissom.prune.channel_selection import ladders, select
from lissom.prune.dead import remove_dead

__all__ = ["PruneChannels", "mend", "prune"]

BATCH = 128
"""Samples in a batch of calibration data: enough for steady variances, few enough for any memory."""


@step
class PruneChannels(Step):
    """Remove the least important channels of every coupled group, and mend what is left.

    Channels, heads, hidden units: every index that the graph allows to go. Each removal is proved: the smaller network
    computes what the network with those positions at zero computes, or the group is left alone and named in the notes.
    Exactly one of ``ratio`` and ``macs`` is given.

    Args:
        ratio: Share of all indices that goes; 0 removes only those that are all zero already.
        macs: Multiply-accumulates that may stay, as a share of those that the network has now.
        importance: ``"l1"``, ``"l2"``, ``"batch_norm"``, ``"taylor"``, ``"fisher"``, ``"activity"`` or ``"entropy"``: see
            :data:`lissom.prune.channel_importance.CHANNEL_IMPORTANCES`.
        scope: ``"global"``: all groups compete; ``"group"``: every group loses the same share.
        multiple: What is left of a group is a multiple of this, where the group has so many: kernels like 8 or 16.
        rounds: Go there in so many rounds, each with new importances.
        reconstruct: Refit the layers that are left to what the network computed before, by least squares on calibration
            data, and recalibrate batch-norm statistics. Neither needs labels.
        samples: Calibration samples for importances and mending.

    Raises:
        UsageError: both or none of ratio and macs.

    Example:
        >>> PruneChannels(macs=0.5, importance="fisher").to_dict()
        {'PruneChannels': {'macs': 0.5}}
    """

    ratio: Annotated[float, Ge(0), Lt(1)] | None = None
    macs: Annotated[float, Gt(0), Lt(1)] | None = None
    importance: Literal["l1", "l2", "batch_norm", "taylor", "fisher", "activity", "entropy"] = "fisher"
    scope: Literal["global", "group"] = "global"
    multiple: Annotated[int, Gt(0)] = 1
    rounds: Annotated[int, Gt(0)] = 1
    reconstruct: bool = True
    samples: Annotated[int, Gt(0)] = 512

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.macs is None):
            given = "both" if self.ratio is not None else "neither"
            raise UsageError(f"PruneChannels: {given} of ratio and macs given; give exactly one of them")

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
    original, before = network, capture(network).macs
    rounds, macs, ratio = getattr(how, "rounds", 1), getattr(how, "macs", None), how.ratio
    for number in range(1, rounds + 1):
        job.check_time()
        graph = capture(network)
        plan = _Plan(
            importance=how.importance,
            scope=how.scope,
            multiple=getattr(how, "multiple", 1),
            samples=how.samples,
            ratio=None if ratio is None else 1 - (1 - ratio) ** (1 / rounds),
            target=None if macs is None else before * macs ** (number / rounds),
        )
        removal = _remove(plan, network, graph, job, candidates)
        if how.reconstruct and removal.removed:
            mend(removal.network, original, job, how.samples)
        network = removal.network.noting(*(f"{name} was left alone: {why}" for name, why in removal.refused.items()))
    after = capture(network).macs
    if macs is not None and after > before * macs * 1.001:
        network = network.noting(
            f"pruning channels leaves {after / before:.0%} of the MACs; {macs:.0%} cannot be reached: at least one "
            "position of every group is kept, and some axes cannot be pruned (lissom inspect says why)"
        )
    return network


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How one round selects."""

    importance: str
    scope: str
    multiple: int
    samples: int
    ratio: float | None
    target: float | None


def _remove(plan: _Plan, network: Network, graph: Graph, job: Job, candidates: Candidates) -> Removal:
    """Select and remove; groups that cannot be proved are left out, and the others make up for them."""
    wanted = candidates(graph, groups(graph))
    scores = channel_importance(network.module, wanted, plan.importance, job, samples=plan.samples)
    sets = siblings(graph, network.module, wanted)
    refused: dict[str, str] = {}
    while True:
        found = [left for each in sets if (left := [group for group in each if group.name not in refused])]
        steps = ladders(found, scores, plan.multiple)
        removal = remove(network, graph, select(graph, steps, scope=plan.scope, ratio=plan.ratio, target=plan.target))
        fresh = {name: why for name, why in removal.refused.items() if name not in refused}
        refused.update(fresh)
        if not fresh:
            return dataclasses.replace(removal, refused=refused)


def mend(network: Network, original: Network, job: Job, samples: int) -> None:
    """Refit ``network.module`` in place to ``original`` on calibration data, and recalibrate its batch norms."""
    batches = _calibration(network, job, samples)
    if batches:
        reconstruct(network, original, batches, job.check_time)
        recalibrate_batch_norm(network.module, batches)


def _calibration(network: Network, job: Job, samples: int) -> Sequence[tuple[Tensor, ...]]:
    device = next(network.module.parameters()).device
    batches: list[tuple[Tensor, ...]] = []
    seen = 0
    for inputs, _ in job.data.calibration.batches(BATCH):
        if seen >= samples:
            break
        seen += len(inputs[0])
        batches.append(tuple(tensor.to(device) for tensor in inputs))
    return batches
