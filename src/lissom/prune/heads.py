"""PruneHeads: remove whole attention heads, a case of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from lissom.graph.axes import Axis, atoms
from lissom.graph.capture import Graph
from lissom.graph.groups import Group
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.prune.channels import prune

__all__ = ["PruneHeads", "heads"]

SCORES = {"scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum"}
"""Operators that compare queries with keys."""


def heads(graph: Graph, groups: Sequence[Group]) -> list[Group]:
    """The groups whose indices are attention heads.

    A head is a batch axis of products between two activations: every head compares its own queries with its own keys.
    """
    found = {
        id(atom)
        for node in graph
        if node.operator in SCORES and not node.parameters
        for axes in graph.work.get(node.name, ())
        for axis in _batch(axes)
        for atom in atoms(axis)
    }
    return [group for group in groups if id(group.atom) in found]


def _batch(axes: Sequence[Axis]) -> Sequence[Axis]:
    """The axes of a product that are neither its rows, its columns nor what it sums over."""
    return axes[:-3]


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
