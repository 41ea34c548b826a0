"""Measured ladders: what removing a quarter of a group really does to the outputs sets the groups beside each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from lissom.data.splits import TaskName
from lissom.graph.capture import Graph
from lissom.graph.slicing import remove
from lissom.measure.metrics import divergence
from lissom.network import Network
from lissom.prune.channel_selection import Ladder, kept

__all__ = ["QUARTER", "measured"]

QUARTER = 4


def measured(found: Sequence[Ladder], network: Network, graph: Graph, inputs: tuple[Tensor, ...], task: TaskName) -> list[Ladder]:
    """The ladders, the costs of each to the scale of what the first quarter of its rungs does to the outputs.

    Importances are of small changes, one index at a time. A channel of a residual stream is read by many layers, and leaves
    more behind than they say; that of a hidden layer less. The order within a group stays.

    Args:
        found: The ladders.
        network: The network that would lose them, one ladder at a time; it is left as it is.
        graph: Its graph.
        inputs: One batch of calibration inputs.
        task: Of the outputs, for their divergence.
    """
    expected = network.outputs(*inputs)

    def scale(ladder: Ladder) -> float:
        first = max(1, len(ladder.rungs) // QUARTER)
        foreseen = sum(ladder.costs[:first])
        if foreseen <= 0:
            return 1.0
        smaller = remove(network, graph, kept([ladder], [first])).network
        return float(divergence(smaller.outputs(*inputs), expected, task).mean()) / foreseen

    scales = [scale(ladder) for ladder in found]
    return [
        dataclasses.replace(ladder, costs=tuple(cost * by for cost in ladder.costs))
        for ladder, by in zip(found, scales, strict=True)
    ]
