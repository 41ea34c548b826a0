"""Groups: the positions of parameters that can only be removed together, and what cannot be removed, each with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lissom.graph.axes import Atom, atoms, indices, size
from lissom.graph.capture import Graph

__all__ = ["Fixed", "Group", "Member", "fixed_axes", "groups", "reachable"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one parameter or buffer in a group.

    Args:
        tensor: Its name.
        axis: Which of its axes.
        labels: For each time that the group's index stands on the axis: the index that each position means, or -1.
        why: The calls that read the tensor, in words.
        trainable: False for a buffer.
    """

    tensor: str
    axis: int
    labels: tuple[npt.NDArray[np.int64], ...] = field(repr=False)
    why: tuple[str, ...]
    trainable: bool

    def positions(self, index: int) -> tuple[int, ...]:
        """The positions of the axis that go when ``index`` goes."""
        hit = np.zeros(self.labels[0].shape, bool)
        for label in self.labels:
            hit |= label == index
        return tuple(int(place) for place in np.flatnonzero(hit))


@dataclass(frozen=True, eq=False)
class Group:
    """Coupled positions: removing index ``i`` removes, on each member, the positions that mean ``i``.

    Args:
        name: The parameter and axis that the group is known by; with a number where an axis has several groups
            (``attention.query.weight[0] 1/2`` are heads, ``2/2`` the channels within a head).
        size: How many indices there are to remove.
        members: Every axis that changes; parameters first, in the order in which they are first read.
        ties: What couples them, in words.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    ties: tuple[str, ...]
    atom: Atom = field(repr=False)

    def at(self, chosen: Iterable[int]) -> list[tuple[str, int, tuple[int, ...]]]:
        """What goes when the indices ``chosen`` go: ``[(tensor, axis, positions), …]``."""
        wanted = list(chosen)
        return [
            (member.tensor, member.axis, tuple(sorted({place for index in wanted for place in member.positions(index)})))
            for member in self.members
        ]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.size} positions, coupled by {', '.join(self.ties) or 'one tensor'}"]
        for member in self.members:
            each = len(member.positions(0))
            lines.append(f"    {member.tensor}[{member.axis}]  {each} each  read by {', '.join(member.why)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Fixed:
    """An axis of a parameter from which nothing can be removed, and why."""

    tensor: str
    axis: int
    why: str


def groups(graph: Graph) -> tuple[Group, ...]:
    """Every coupled group that has a parameter and nothing that fixes it, in the order in which parameters are read.

    >>> from torch import nn, zeros
    >>> from lissom.graph.capture import capture
    >>> from lissom.network import Network
    >>> module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5))
    >>> for group in groups(capture(Network(module, (zeros(2, 1, 4, 4),)))):
    ...     print(group.at([1]))
    [('0.weight', 0, (1,)), ('0.bias', 0, (1,)), ('1.weight', 0, (1,)), ('1.bias', 0, (1,)), ('3.weight', 1, (4, 5, 6, 7)),\
 ('1.running_mean', 0, (1,)), ('1.running_var', 0, (1,))]
    """
    places: dict[int, tuple[Atom, dict[tuple[str, int], None]]] = {}
    for tensor, axis, atom in _standing(graph):
        if atom.frozen is None:
            places.setdefault(id(atom), (atom, {}))[1][tensor, axis] = None
    found = (_group(graph, atom, list(where)) for atom, where in places.values())
    return tuple(group for group in found if any(member.trainable for member in group.members))


def _standing(graph: Graph) -> Iterator[tuple[str, int, Atom]]:
    for tensor, axes in sorted(graph.tensors.items(), key=lambda item: item[0] not in graph.trainable):
        for place, axis in enumerate(axes):
            for atom in atoms(axis):
                yield tensor, place, atom


def _group(graph: Graph, atom: Atom, where: list[tuple[str, int]]) -> Group:
    members = tuple(
        Member(tensor, axis, tuple(indices(graph.tensors[tensor][axis], atom)), graph.uses[tensor], tensor in graph.trainable)
        for tensor, axis in where
    )
    tensor, axis = where[0]
    standing = list(dict.fromkeys(atoms(graph.tensors[tensor][axis])))
    number = f" {standing.index(atom) + 1}/{len(standing)}" if len(standing) > 1 else ""
    return Group(f"{tensor}[{axis}]{number}", atom.size, members, tuple(atom.ties), atom)


def fixed_axes(graph: Graph) -> tuple[Fixed, ...]:
    """The axes of parameters from which nothing at all can be removed, each with the first reason found."""
    found = []
    for tensor in graph.tensors:
        for place, axis in enumerate(graph.tensors[tensor]):
            reasons = [atom.frozen for atom in atoms(axis)]
            if tensor in graph.trainable and size(axis) > 1 and reasons and None not in reasons:
                found.append(Fixed(tensor, place, str(reasons[0])))
    return tuple(found)


def reachable(graph: Graph, chosen: Iterable[Group]) -> float:
    """The share of parameters that stand in at least one of the groups ``chosen``."""
    hit: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for member in (member for group in chosen for member in group.members):
        inside = np.logical_or.reduce([label >= 0 for label in member.labels])
        key = (member.tensor, member.axis)
        hit[key] = hit[key] | inside if key in hit else inside
    total = untouched = 0
    for tensor in graph.trainable:
        shape = graph.shapes[tensor]
        total += math.prod(shape)
        outside = (int((~hit[tensor, axis]).sum()) if (tensor, axis) in hit else length for axis, length in enumerate(shape))
        untouched += math.prod(outside)
    return 1 - untouched / total if total else 0.0
