"""Dead channels: positions that are all zero already go without changing what the network computes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lissom import edits
from lissom.graph.capture import capture
from lissom.graph.groups import Group, groups
from lissom.graph.slicing import difference, remove
from lissom.network import Network
from lissom.prune.channel_importance import collect, magnitudes
from lissom.prune.channel_selection import Keep

__all__ = ["remove_dead"]


def remove_dead(network: Network) -> Network:
    """Remove every index that nothing writes or nothing reads: all its weights on one side are exactly zero.

    Where that would change the outputs (a sigmoid of nothing is a half), only indices whose weights are all zero go.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 3)
        >>> _ = torch.nn.init.zeros_(layer.weight.data[1]), torch.nn.init.zeros_(layer.bias.data[1])
        >>> network = Network(torch.nn.Sequential(layer, torch.nn.ReLU(), torch.nn.Linear(3, 1)), (torch.ones(2, 2),))
        >>> remove_dead(network).module[0].weight.shape
        torch.Size([2, 2])
    """
    graph = capture(network)
    found = groups(graph)
    for either_side in (True, False):
        keep: Keep = {}
        for group in found:
            alive = _alive(network, group, either_side)
            if not alive.all():
                alive[0] |= not alive.any()  # one position always stays
                keep[group] = alive
        removal = remove(network, graph, keep)
        if difference(removal.network, network) is None:
            return removal.network
    return network


def _alive(network: Network, group: Group, either_side: bool) -> npt.NDArray[np.bool_]:
    """Which indices are needed: not zero where they are written (first axes) and not zero where they are read (others)."""
    sides: dict[bool, npt.NDArray[np.float64]] = {}
    for member in group.members:
        if member.trainable:
            mass = collect(member, group.size, magnitudes(edits.value(network.module, member.tensor), member.axis))
            side = member.axis == 0
            sides[side] = sides.get(side, np.zeros(group.size)) + mass
    needed = np.stack([mass > 0 for mass in sides.values()])
    return np.asarray(needed.all(0) if either_side else needed.any(0))
