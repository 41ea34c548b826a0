"""Channel selection: which indices of which groups go, up to the first selection that is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lissom.graph.axes import Atom
from lissom.graph.capture import Graph
from lissom.graph.cost import macs
from lissom.graph.groups import Group

__all__ = ["Keep", "Ladder", "kept", "ladders", "macs_left", "removed", "select"]

Keep = dict[Group, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Ladder:
    """Groups that lose equal shares (they share an attribute), as rungs: what goes first, what goes next.

    Args:
        groups: The groups.
        rungs: For each rung, the indices of each group that go with it, least important first. The last positions
            stand on no rung: at least one is always kept.
        costs: The importance that each rung loses. Importances are those of single indices in the whole group; they add up
            only while few go, so each counts by the size of the group over what is left of it when its turn comes.
    """

    groups: tuple[Group, ...]
    rungs: tuple[tuple[npt.NDArray[np.int64], ...], ...]
    costs: tuple[float, ...]

    def gone(self, count: int) -> list[npt.NDArray[np.bool_]]:
        """Which indices of each group stay when the first ``count`` rungs go."""
        masks = [np.ones(group.size, bool) for group in self.groups]
        for rung in self.rungs[:count]:
            for mask, indices in zip(masks, rung, strict=True):
                mask[indices] = False
        return masks


def ladders(
    sets: Sequence[Sequence[Group]],
    scores: Mapping[Group, npt.NDArray[np.float64]],
    multiple: int = 1,
    least: Mapping[str, int] | None = None,
) -> list[Ladder]:
    """A ladder for each set of groups that must keep equal shares.

    Args:
        sets: Groups that share attributes, from :func:`lissom.graph.attributes.siblings`.
        scores: Importance of every index.
        multiple: What is left of a group is a multiple of this, where the group has so many.
        least: By the names of groups, how many indices stay of each at least; one of any other.
    """
    result = []
    for groups in sets:
        steps = math.gcd(*(group.size for group in groups))
        stays = max(-(-(least or {}).get(group.name, 1) * steps // group.size) for group in groups)
        order = [np.argsort(scores[group], kind="stable") for group in groups]
        sizes = [group.size // steps for group in groups]
        whole = multiple if steps >= multiple else 1
        edges = list(range(steps % whole or whole, steps - stays + 1, whole))
        rungs, costs = [], []
        for low, high in zip([0, *edges], edges, strict=False):
            rung = tuple(sorted_[low * each : high * each] for sorted_, each in zip(order, sizes, strict=True))
            rungs.append(rung)
            lost = [
                (scores[group][part] * group.size / np.arange(group.size - low * each, group.size - high * each, -1)).sum()
                for group, part, each in zip(groups, rung, sizes, strict=True)
            ]
            costs.append(float(sum(lost)))
        result.append(Ladder(tuple(groups), tuple(rungs), tuple(costs)))
    return result


def select(
    graph: Graph,
    found: Sequence[Ladder],
    *,
    scope: str,
    by_macs: bool,
    enough: Callable[[Keep], bool],
    trials: int | None = None,
) -> Keep:
    """What stays of every group: the most important selection that is enough, or the smallest there is.

    Args:
        graph: The network's graph, for MACs.
        found: The ladders.
        scope: ``"global"``: rungs of all ladders compete, by importance for what they save; ``"group"``: every ladder
            loses the same share.
        by_macs: Whether rungs compete by the multiply-accumulates that they save, or by how many indices go.
        enough: Whether a selection leaves no more than may be left; true of every smaller selection too.
        trials: How finely to look where ``enough`` is dear: steps are told apart up to one in 2^trials.
    """
    if not found:
        return {}
    taking = _by_share(found) if scope == "group" else _by_rank(graph, found, by_macs=by_macs)
    places = taking.steps if trials is None else min(taking.steps, 2**trials)

    def at(place: int) -> int:
        return round(place * taking.steps / max(places, 1))

    step = at(_first(places, lambda place: enough(kept(found, taking.counts(at(place))))))
    counts = taking.counts(step)
    if trials is None:
        counts = _given_back(found, counts, taking.order[:step], enough)
    return kept(found, counts)


def _given_back(found: Sequence[Ladder], counts: list[int], taken: Sequence[int], enough: Callable[[Keep], bool]) -> list[int]:
    """Rungs that stay after all, the last taken first, since the very last saved more than was needed."""
    needed: set[int] = set()
    for number in reversed(taken):
        if number in needed:
            continue
        fewer = [count - (place == number) for place, count in enumerate(counts)]
        if enough(kept(found, fewer)):
            counts = fewer
        else:
            needed.add(number)
    return counts


@dataclass(frozen=True)
class _Taking:
    """A way to take more and more.

    Args:
        steps: How many there are.
        counts: How many rungs of each ladder are gone after so many steps.
        order: Which ladder each step takes a rung of, where it takes one of one ladder.
    """

    steps: int
    counts: Callable[[int], list[int]]
    order: Sequence[int] = ()


def _first(steps: int, enough: Callable[[int], bool]) -> int:
    """The smallest number of steps that is enough, by bisection; all of them where none is."""
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _by_share(found: Sequence[Ladder]) -> _Taking:
    fine = 1000
    return _Taking(fine, lambda step: [int(step / fine * (len(ladder.rungs) + 1) + 1e-9) for ladder in found])


def _by_rank(graph: Graph, found: Sequence[Ladder], *, by_macs: bool) -> _Taking:
    """Rungs in the order of importance lost for each MAC (or index) saved; a ladder's own order is kept."""
    whole = macs(graph)
    steps: list[tuple[float, int]] = []
    for number, ladder in enumerate(found):
        if not ladder.rungs:
            continue
        half = max(1, len(ladder.rungs) // 2)
        if by_macs:
            saved = (whole - macs_left(graph, kept([ladder], [half]))) / half
        else:
            saved = sum(part.size for part in ladder.rungs[0])
        highest = 0.0
        for cost in ladder.costs:
            highest = max(highest, cost / max(saved, 1e-12))
            steps.append((highest, number))
    steps.sort(key=lambda step: step[0])

    order = [number for _, number in steps]

    def counts(step: int) -> list[int]:
        taken: list[int] = np.bincount(np.array(order[:step], np.int64), minlength=len(found)).tolist()
        return taken

    return _Taking(len(order), counts, order)


def kept(found: Sequence[Ladder], counts: Sequence[int]) -> Keep:
    """What stays of every group when so many rungs of each ladder go."""
    return {
        group: mask
        for ladder, count in zip(found, counts, strict=True)
        for group, mask in zip(ladder.groups, ladder.gone(count), strict=True)
    }


def removed(keep: Keep) -> int:
    """How many indices go."""
    return sum(int((~mask).sum()) for mask in keep.values())


def macs_left(graph: Graph, keep: Keep) -> int:
    """Multiply-accumulates of one sample that are left."""
    return macs(graph, _by_atom(keep))


def _by_atom(keep: Keep) -> dict[Atom, npt.NDArray[np.bool_]]:
    return {group.atom: mask for group, mask in keep.items()}
