"""PruneHeads: remove whole attention heads, a case of channels."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from lissom.graph.products import heads
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.prune.channels import prune

__all__ = ["PruneHeads"]


@step
class PruneHeads(Step):
    """Remove the least important attention heads; each removal is proved, as :class:`PruneChannels` does it.

    Args:
        ratio: Share of all heads that goes; at least one head of every layer is kept.
        importance: As for :class:`PruneChannels`.
        scope: ``"global"``: the heads of all layers compete; ``"group"``: every layer loses the same share.
        reconstruct: Refit the layers that are left to what the network computed before.
        samples: Calibration samples for importances and mending.

    Example:
        >>> PruneHeads(ratio=0.25).to_dict()
        {'PruneHeads': {'ratio': 0.25}}
    """

    ratio: Annotated[float, Gt(0), Lt(1)]
    importance: Literal["l1", "l2", "taylor", "fisher"] = "fisher"
    scope: Literal["global", "group"] = "global"
    reconstruct: bool = True
    samples: Annotated[int, Ge(1)] = 512

    def apply(self, network: Network, job: Job) -> Network:
        """The network with fewer heads; one without attention comes back with a note."""
        chosen = prune(self, network, job, heads)
        return chosen if chosen.slices != network.slices else chosen.noting("no attention head could be removed")
