"""Slicing: take positions out of a copy of a network, and prove that it computes what zeroing them would."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.errors import ModelRefused
from lissom.graph.attributes import held_around, resizes, siblings
from lissom.graph.axes import Atom, atoms, kept
from lissom.graph.capture import Graph
from lissom.graph.groups import Group
from lissom.graph.products import compared
from lissom.graph.structure import apply_structure
from lissom.network import Network, Resize, Scale, Slice, StructureEdit, flatten_outputs

__all__ = ["Removal", "difference", "remove"]

Keep = Mapping[Group, npt.NDArray[np.bool_]]
"""For some groups, which indices stay."""

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
"""Largest ``max|sliced - masked| / max|masked|`` of an output that counts as parity, by the precision of the trial.

Trials run in float64 where the network can: a wrong factor in a layer of little influence then still shows.
"""


@dataclass(frozen=True)
class Removal:
    """What came of a removal.

    Args:
        network: The sliced network; the one given where nothing could be removed.
        removed: The groups that lost positions.
        refused: For each group that was left alone, why.
    """

    network: Network
    removed: tuple[Group, ...]
    refused: Mapping[str, str]


def remove(network: Network, graph: Graph, keep: Keep) -> Removal:
    """Take positions out of a copy of ``network``, as far as that can be proved.

    The sliced network must give what the network gives with the removed positions of all parameters at zero, on random
    inputs, to float precision. Sizes that the network's own code states are looked for among the attributes of the module
    that states them. Groups whose removal cannot be proved are left alone, each named with the reason; the others go.

    Args:
        network: Left as it was.
        graph: Its graph, from :func:`lissom.graph.capture.capture`.
        keep: For each group to prune, the indices that stay: bool [group.size], at least one True.

    Example:
        >>> from lissom.graph.capture import capture
        >>> from lissom.graph.groups import groups
        >>> network = Network(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.zeros(2, 3),))
        >>> graph = capture(network)
        >>> removal = remove(network, graph, {groups(graph)[0]: np.array([True, False, True, False])})
        >>> removal.network.module[2].weight.shape, removal.network.slices[0]
        (torch.Size([2, 2]), Slice(tensor='0.weight', axis=0, kept=(0, 2)))
    """
    wanted = {group: mask for group, mask in keep.items() if not mask.all()}
    prover = _Prover(network, graph, wanted)
    accepted = prover.provable(siblings(graph, prover.plain, list(wanted)))
    if not accepted.groups:
        return Removal(network, (), prover.refused)
    structure = prover.structure(accepted)
    sliced = edits.copy(network, slices=(*network.slices, *structure))
    apply_structure(sliced.module, structure)
    return Removal(sliced, tuple(accepted.groups), prover.refused)


@dataclass(frozen=True)
class _Plan:
    """Groups to remove together, and how the attributes follow that the graph does not prove to hold a size of theirs.

    Args:
        groups: The groups.
        left_alone: Attributes that hold one of their sizes by accident, so must not follow.
        checked: Those of the groups whose sizes the modules around also hold, to check or to reshape by.
        scaled: Those of the groups that code compares queries with keys along, and divides by the root of their size.
    """

    groups: tuple[Group, ...] = ()
    left_alone: frozenset[tuple[str, str]] = frozenset()
    checked: frozenset[Group] = frozenset()
    scaled: frozenset[Group] = frozenset()

    def with_(self, other: _Plan) -> _Plan:
        return _Plan(
            self.groups + other.groups,
            self.left_alone | other.left_alone,
            self.checked | other.checked,
            self.scaled | other.scaled,
        )


class _Prover:
    """Finds the largest plan that holds, by halving: many groups are proved by one trial where all is well."""

    def __init__(self, network: Network, graph: Graph, keep: Keep) -> None:
        self.network, self.graph, self.keep = network, graph, keep
        self.refused: dict[str, str] = {}
        self.inputs = _random_inputs(network.example_inputs)
        self.plain = edits.bake(edits.copy_module(network.module)).eval()
        self.compared = frozenset(compared(graph, keep))
        inputs = self.inputs
        for self.precision in TOLERANCE:
            self.plain = self.plain.to(self.precision)
            self.inputs = tuple(each.to(self.precision) if each.is_floating_point() else each for each in inputs)
            if not isinstance(_outputs(self.plain, self.inputs), str):
                break

    def provable(self, units: Sequence[Sequence[Group]]) -> _Plan:
        """The plan that holds for as many as can be of ``units``: groups that share attributes, so go together.

        Where all of them do not hold, groups of one size are tried together before they are halved: code may read the
        size of one off another's shape.
        """
        if not units:
            return _Plan()
        whole = _Plan(tuple(itertools.chain(*units)))
        found, failure = self._attempt(whole)
        if failure is None:
            return found
        if len(units) == 1 and len(units[0]) == 1:
            return self._alone(units[0][0], failure)
        split = [[group] for group in units[0]] if len(units) == 1 else units
        parts = [list(same) for _, same in itertools.groupby(sorted(split, key=_unit_size), key=_unit_size)]
        if len(parts) == 1:
            parts = [list(split[: len(split) // 2]), list(split[len(split) // 2 :])]
        plan = _Plan()
        for part in parts:
            plan = self._joined(plan, self.provable(part))
        return plan

    def _attempt(self, plan: _Plan) -> tuple[_Plan, str | None]:
        """The plan, or the plan with what may go along: sizes that modules around hold, a root that code divides by."""
        failure = self.failure(plan)
        if failure is None:
            return plan, None
        if failure.startswith(DOES_NOT_RUN):
            other = dataclasses.replace(plan, checked=frozenset(plan.groups))
        else:
            other = dataclasses.replace(plan, scaled=self.compared & frozenset(plan.groups))
        return (other, None) if other != plan and self.failure(other) is None else (plan, failure)

    def _alone(self, group: Group, failure: str) -> _Plan:
        """One group, with fewer and fewer of the attributes that hold one of its sizes by accident, perhaps."""
        named = [(edit.module, edit.attribute) for edit in self._resizes(_Plan((group,)))]
        subsets = [frozenset(named)] if named else []
        subsets += [frozenset(left) for count in (1, 2) for left in itertools.combinations(named, count) if count < len(named)]
        for left_alone in subsets[:MOST_TRIALS]:
            plan = _Plan((group,), left_alone)
            if self.failure(plan) is None:
                return plan
        self.refused[group.name] = failure
        return _Plan()

    def _joined(self, first: _Plan, second: _Plan) -> _Plan:
        """Both plans in one; where they do not hold together, the first with what it can take of the second."""
        if not first.groups or not second.groups:
            return first.with_(second)
        both = first.with_(second)
        if self.failure(both) is None:
            return both
        plan = first
        for group in second.groups:
            wider = plan.with_(_Plan((group,), second.left_alone, second.checked & {group}, second.scaled & {group}))
            failure = self.failure(wider)
            if failure is None:
                plan = wider
            else:
                self.refused[group.name] = f"together with others: {failure}"
        return plan

    def structure(self, plan: _Plan) -> tuple[StructureEdit, ...]:
        """The slices of every tensor, and the attributes that follow."""
        keep = self._by_atom(plan)
        slices: list[StructureEdit] = []
        for tensor, axes in self.graph.tensors.items():
            for place, axis in enumerate(axes):
                if any(atom in keep for atom in atoms(axis)):
                    slices.append(Slice(tensor, place, tuple(int(at) for at in np.flatnonzero(kept(axis, keep)))))
        scales = itertools.chain.from_iterable(self._scales(group) for group in plan.scaled)
        return (*slices, *self._resizes(plan), *scales)

    def _scales(self, group: Group) -> list[Scale]:
        """The queries' weight and bias by the root of the share that stays, unless a grid holds their values."""
        owner = group.members[0].tensor.rpartition(".")[0]
        standing = edits.edited(self.network.module)
        names = [each.tensor for each in group.members if each.trainable and each.tensor.rpartition(".")[0] == owner]
        if any(name in standing and standing[name].grid is not None for name in names):
            return []
        return [Scale(name, float(self.keep[group].mean() ** 0.5)) for name in names]

    def _by_atom(self, plan: _Plan) -> dict[Atom, npt.NDArray[np.bool_]]:
        return {group.atom: self.keep[group] for group in plan.groups}

    def _resizes(self, plan: _Plan) -> list[Resize]:
        known = resizes(self.graph, self.plain, self._by_atom(plan), plan.left_alone)
        return [*known, *held_around(self.plain, {group: self.keep[group] for group in plan.checked}, known)]

    def failure(self, plan: _Plan) -> str | None:
        """Why the plan does not hold; None where the sliced network equals the masked one."""
        structure = self.structure(plan)
        reference = _outputs(_masked(self.plain, structure, self.graph.trainable), self.inputs)
        if isinstance(reference, str):
            return f"with its positions at zero, the network does not run: {reference}"
        try:
            sliced = apply_structure(edits.copy_module(self.plain), structure)
        except ModelRefused as error:
            return f"{DOES_NOT_RUN}: {error}"
        answer = _outputs(sliced, self.inputs)
        if isinstance(answer, str):
            return f"{DOES_NOT_RUN}: {answer}"
        return _difference(answer, reference, TOLERANCE[self.precision])


def _unit_size(unit: Sequence[Group]) -> int:
    return unit[0].size


DOES_NOT_RUN = "without its positions, the network does not run"

MOST_TRIALS = 12
"""How many choices of attributes are tried for one group before it is refused."""


def _masked(plain: nn.Module, structure: Iterable[StructureEdit], trainable: frozenset[str]) -> nn.Module:
    module = edits.copy_module(plain)
    with torch.no_grad():
        for edit in structure:
            if isinstance(edit, Slice) and edit.tensor in trainable:
                tensor = edits.latent(module, edit.tensor)
                gone = torch.ones(tensor.shape[edit.axis], dtype=torch.bool)
                gone[list(edit.kept)] = False
                tensor.index_fill_(edit.axis, torch.nonzero(gone).flatten().to(tensor.device), 0)
    return module


def _difference(answer: Sequence[Tensor], reference: Sequence[Tensor], tolerance: float) -> str | None:
    if len(answer) != len(reference):
        return f"the sliced network gives {len(answer)} outputs, the masked one {len(reference)}"
    for number, (got, want) in enumerate(zip(answer, reference, strict=True)):
        if got.shape != want.shape:
            return f"output {number} has shape {list(got.shape)} sliced and {list(want.shape)} masked"
        if got.numel() == 0:
            continue
        error = float((got.double() - want.double()).abs().max())
        largest = float(want.double().abs().max())
        if not error <= tolerance * max(largest, torch.finfo(torch.float32).tiny):
            share = error / (largest or 1)
            return f"output {number} of the sliced network differs from the masked one's by {share:.1e} of its maximum"
    return None


def difference(one: Network, other: Network) -> str | None:
    """Why ``one`` does not compute what ``other`` does on random inputs, to float precision; None where it does.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> network = Network(layer, (torch.zeros(2, 2),))
        >>> difference(network, edits.copy(network)) is None
        True
    """
    answers: list[tuple[Tensor, ...] | str] = []
    for precision, tolerance in TOLERANCE.items():
        answers = [
            _run(edits.bake(edits.copy_module(each.module)).eval().to(precision), other, precision) for each in (one, other)
        ]
        got, want = answers
        if not isinstance(got, str) and not isinstance(want, str):
            return _difference(got, want, tolerance)
    return next(answer for answer in answers if isinstance(answer, str))


def _run(module: nn.Module, network: Network, precision: torch.dtype) -> tuple[Tensor, ...] | str:
    inputs = [each.to(precision) if each.is_floating_point() else each for each in _random_inputs(network.example_inputs)]
    return _outputs(module, inputs)


def _outputs(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...] | str:
    """What ``module`` gives, or why it does not run."""
    try:
        with torch.no_grad():
            return flatten_outputs(module(*inputs))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, KeyError, AttributeError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


def _random_inputs(examples: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Inputs of the examples' shapes and kinds: normal where they measure, the same values in another order where they count.

    Integers count; so do floats that are all whole and differ, which are the token numbers of files that read them so.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for example in examples:
        plain = example.detach().cpu()
        if plain.is_floating_point() and not _counts(plain):
            spread = float(plain.float().std()) if plain.numel() > 1 else 0.0
            noise = torch.randn(plain.shape, generator=generator) * (spread or 1.0) + plain.float().mean()
            found.append(noise.to(example.dtype).to(example.device))
        else:
            order = torch.randperm(plain.numel(), generator=generator)
            found.append(plain.flatten()[order].reshape(plain.shape).to(example.device))
    return tuple(found)


def _counts(plain: Tensor) -> bool:
    """Whether floats are whole numbers, and more than one: a constant says nothing about what an input may be."""
    return bool((plain == plain.round()).all()) and bool((plain != plain.flatten()[0]).any()) if plain.numel() else False
