"""PruneChannels: remove whole channels, so that the network is really smaller and faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from torch import Tensor

from lissom.calibrate.batch_norm import recalibrate_batch_norm
from lissom.calibrate.reconstruction import reconstruct
from lissom.errors import UsageError
from lissom.graph.attributes import siblings
from lissom.graph.capture import Graph, capture
from lissom.graph.groups import groups
from lissom.graph.slicing import Removal, remove
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.prune.channel_importance import channel_importance
from lissom.prune.channel_selection import ladders, select

__all__ = ["PruneChannels", "mend"]

BATCH = 32


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
        multiple: What is left of a group is a multiple of this, where the group is larger: kernels like 4 or 8.
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
        original, before = network, 0
        for number in range(1, self.rounds + 1):
            job.check_time()
            graph = capture(network)
            before = before or graph.macs
            target = None if self.macs is None else before * self.macs ** (number / self.rounds)
            ratio = None if self.ratio is None else 1 - (1 - self.ratio) ** (1 / self.rounds)
            removal = self._removal(network, graph, job, ratio, target)
            if self.reconstruct and removal.removed:
                mend(removal.network, network, job, self.samples)
            network = removal.network.noting(*_notes(removal))
        if self.macs is not None:
            after = capture(network).macs
            if after > before * self.macs * 1.001:
                network = network.noting(
                    f"pruning channels leaves {after / before:.0%} of the MACs; {self.macs:.0%} cannot be reached: at least one "
                    "position of every group is kept, and some axes cannot be pruned (lissom inspect says why)"
                )
        return dataclasses.replace(network, source=original.source)

    def _removal(self, network: Network, graph: Graph, job: Job, ratio: float | None, target: float | None) -> Removal:
        """Select and remove; groups that cannot be proved are left out, and the others make up for them."""
        candidates = list(groups(graph))
        scores = channel_importance(network.module, candidates, self.importance, job, samples=self.samples)
        sets = siblings(graph, network.module, candidates)
        refused: dict[str, str] = {}
        while True:
            found = [each for each in sets if not any(group.name in refused for group in each)]
            keep = select(graph, ladders(found, scores, self.multiple), scope=self.scope, ratio=ratio, target=target)
            removal = remove(network, graph, keep)
            fresh = {name: why for name, why in removal.refused.items() if name not in refused}
            refused.update(fresh)
            if not fresh:
                return dataclasses.replace(removal, refused=refused)


def mend(network: Network, original: Network, job: Job, samples: int) -> None:
    """Refit ``network.module`` in place to ``original`` on calibration data, and recalibrate its batch norms."""
    batches = _calibration(network, job, samples)
    if batches:
        reconstruct(network, original, batches)
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


def _notes(removal: Removal) -> list[str]:
    return [f"{name} was left alone: {why}" for name, why in removal.refused.items()]
