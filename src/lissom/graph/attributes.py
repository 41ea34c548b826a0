"""Sizes that a network's own code states: the attributes that hold them, and the groups that share one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from lissom.graph.axes import Atom, atoms, kept
from lissom.graph.capture import Graph
from lissom.graph.groups import Group
from lissom.network import Resize

__all__ = ["held_around", "holders", "resizes", "siblings"]

Key = tuple[str, str]
"""Path of a module, and the attribute that holds a size (``config.num_heads`` for one of its configuration)."""


def holders(module: nn.Module, path: str, value: int) -> list[Key]:
    """Where code of the module ``path`` may have read the number ``value``.

    Integer attributes of that module; failing those, of its configuration; failing those, of the module around it.
    """
    while True:
        owner = module.get_submodule(path)
        found = [(path, name) for name in _integers(owner, value)]
        if not found and hasattr(owner, "config"):
            first = next(name for name, part in module.named_modules() if getattr(part, "config", None) is owner.config)
            found = [(first, f"config.{name}") for name in _integers(owner.config, value)]
        if found or not path:
            return found
        path = path.rpartition(".")[0]


def _integers(owner: Any, value: int) -> list[str]:
    held = vars(owner) if hasattr(owner, "__dict__") else {}
    return [name for name, number in held.items() if type(number) is int and number == value and not name.startswith("_")]


def resizes(
    graph: Graph, module: nn.Module, keep: Mapping[Atom, npt.NDArray[np.bool_]], left_alone: Collection[Key] = ()
) -> list[Resize]:
    """The attributes that must change with ``keep``; one that would have to hold two numbers stays as it is."""
    found: dict[Key, set[int]] = {}
    for written in graph.written:
        if any(atom in keep for atom in atoms(written.axis)):
            after = int(kept(written.axis, keep).sum())
            for key in holders(module, written.module, written.value):
                found.setdefault(key, set()).add(after)
    return [Resize(*key, values.pop()) for key, values in found.items() if len(values) == 1 and key not in left_alone]


def held_around(module: nn.Module, keep: Mapping[Group, npt.NDArray[np.bool_]], known: Collection[Resize] = ()) -> list[Resize]:
    """The sizes of ``keep``'s axes that the modules which own their tensors, and the modules around these, hold too.

    Such an attribute may be what the code checks its input against, which leaves no trace in a graph.
    """
    found: dict[Key, set[int]] = {}
    for group, mask in keep.items():
        for member in group.members:
            gone = sum(len(member.positions(int(index))) for index in np.flatnonzero(~mask))
            owner = member.tensor.rpartition(".")[0]
            for path in {owner, owner.rpartition(".")[0]}:
                for name in _integers(module.get_submodule(path), len(member.labels[0])):
                    found.setdefault((path, name), set()).add(len(member.labels[0]) - gone)
    done = {(edit.module, edit.attribute) for edit in known}
    return [Resize(*key, sizes.pop()) for key, sizes in found.items() if len(sizes) == 1 and key not in done]


def siblings(graph: Graph, module: nn.Module, groups: Sequence[Group]) -> list[list[Group]]:
    """``groups`` in sets that must keep equal shares, because one attribute holds the sizes of several of their axes.

    Queries and values of an attention layer, say, have channels of their own, but the code reads one ``head_dim`` for both.
    """
    by_atom = {group.atom: group for group in groups}
    read: dict[Key, list[frozenset[Atom]]] = {}
    for written in graph.written:
        standing = frozenset(atom for atom in atoms(written.axis) if atom in by_atom)
        if standing:
            for key in holders(module, written.module, written.value):
                read.setdefault(key, []).append(standing)
    leader = {group: group for group in groups}

    def lead(group: Group) -> Group:
        while leader[group] is not group:
            group = leader[group]
        return group

    for sets in read.values():
        for other in sets[1:]:
            apart = [by_atom[atom] for atom in sets[0] ^ other]
            for group in apart[1:]:
                leader[lead(group)] = lead(apart[0])
    together: dict[Group, list[Group]] = {}
    for group in groups:
        together.setdefault(lead(group), []).append(group)
    return list(together.values())
