"""Products of activations with activations: the heads of attention, and the axes along which queries meet keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lissom.graph.axes import Axis, atoms
from lissom.graph.capture import Graph
from lissom.graph.groups import Group
from lissom.graph.rules import Axes

__all__ = ["compared", "heads"]

PRODUCTS = {"scaled_dot_product_attention", "matmul", "bmm", "baddbmm", "einsum"}
"""Operators that compare queries with keys."""


def heads(graph: Graph, groups: Iterable[Group]) -> list[Group]:
    """The groups whose indices are attention heads.

    A head is a batch axis of products between two activations: every head compares its own queries with its own keys.
    """
    return _standing(graph, groups, lambda axes: axes[:-3])


def compared(graph: Graph, groups: Iterable[Group]) -> list[Group]:
    """The groups whose indices are the channels within a head, along which queries are compared with keys."""
    return _standing(graph, groups, lambda axes: axes[-1:])


def _standing(graph: Graph, groups: Iterable[Group], part: Callable[[Axes], Sequence[Axis]]) -> list[Group]:
    """The groups that stand on some axes of the work (batch, rows, columns, what is summed over) of products."""
    found = {
        id(atom)
        for node in graph
        if node.operator in PRODUCTS and not node.parameters
        for axes in graph.work.get(node.name, ())
        for axis in part(axes)
        for atom in atoms(axis)
    }
    return [group for group in groups if id(group.atom) in found]
