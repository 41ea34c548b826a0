"""Substitute: a lighter kind of layer takes a layer's place, started from the trained weights."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Annotated, Any, Literal

from annotated_types import Gt
from torch import nn

from lissom import edits
from lissom.calibrate.batch_norm import BATCH_NORMS, shift_batch_norm
from lissom.calibrate.inputs import calibration_inputs
from lissom.calibrate.reconstruction import kept_rows, reconstruct
from lissom.factorize.fit import Target
from lissom.factorize.layers import Limit
from lissom.factorize.ranks import sizes_for
from lissom.factorize.replacing import Places
from lissom.graph.groups import Group, Member
from lissom.job import Job, Step, step
from lissom.network import Network, Slice
from lissom.prune.channels import PruneChannels, prune

__all__ = ["Substitute", "pair"]


@step
class Substitute(Step):
    """Put a lighter block in the place of convolutions, or make pairs of layers narrower.

    A block begins as the one of its kind that comes nearest to the outputs of the layer on calibration inputs: its weights
    are trained to imitate them, block after block, from factors of the trained weights; no labels are needed. Train the
    whole afterwards: ``Finetune(distill=Distill())``. A layer that the kind does not fit, or that would not become smaller,
    is left alone and named in the notes.

    Args:
        kind: ``"separable"``: a depthwise kernel, then pointwise (MobileNet, arXiv:1704.04861), with as many kernels for each
            channel as ``ratio`` allows. ``"grouped"``: the kernel in groups, then a pointwise layer, which mixes the groups
            as a shuffle would. ``"bottleneck"``: pointwise to few channels, the kernel, pointwise back (ResNet,
            arXiv:1512.03385). ``"narrow"``: fewer hidden units or channels between two layers.
        ratio: Share of each layer's parameters that stays at most; of a separable or grouped block, the nearest below it.
        samples: Calibration samples.
        include: Globs of layers or weights; by default all of them.
        exclude: Globs of what is left alone.

    Example:
        >>> Substitute(kind="separable", ratio=0.3).to_dict()
        {'Substitute': {'kind': 'separable', 'ratio': 0.3}}
    """

    kind: Literal["separable", "grouped", "bottleneck", "narrow"]
    ratio: Limit = 0.5
    samples: Annotated[int, Gt(0)] = 256
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def apply(self, network: Network, job: Job) -> Network:
        """The lighter network, and in its notes what was left alone and why."""
        if self.kind == "narrow":
            return self._narrowed(network, job)
        places = Places.of(network, job, self.method, samples=self.samples, include=self.include, exclude=self.exclude)
        return places.replaced(self.block_for, job)

    @property
    def method(self) -> str:
        """The blocks that the kind is made of: see :data:`lissom.graph.blocks.BLOCKS`."""
        return "tucker" if self.kind == "bottleneck" else "grouped"

    def block_for(self, _: str, layer: nn.Module, __: Target) -> tuple[str, tuple[int, ...]]:
        """Method and sizes of the block for one layer."""
        if self.kind == "bottleneck":
            return self.method, sizes_for(layer, "tucker", self.ratio)
        return self.method, _separable(layer, self.ratio) if self.kind == "separable" else _grouped(layer, self.ratio)

    def _narrowed(self, network: Network, job: Job) -> Network:
        """The network with fewer channels between pairs of layers: a case of pruning channels.

        The layer that lost inputs is refitted to the answers that it gave before; so nothing moves outside the pair.
        """
        chosen = set(edits.selected(network.module, self.include, self.exclude))
        how = PruneChannels(ratio=1 - self.ratio, scope="group", importance="taylor", reconstruct=False, samples=self.samples)
        made = prune(how, network, job, lambda _, found: [each for each in found if (pair(network, each) or ("",))[0] in chosen])
        lost = [edit for edit in made.slices[len(network.slices) :] if isinstance(edit, Slice)]
        if not lost:
            return made.noting("no pair of layers could be made narrower")
        inputs = calibration_inputs(network, job, self.samples)
        readers = {edit.tensor.rpartition(".")[0] for edit in lost if edit.axis == 1}
        reconstruct(made, network, inputs, job.check_time, only=readers)
        shift_batch_norm(made.module, network.module, inputs, kept_rows(network, made))
        return made.noting(*_narrowed_to(network, made, readers))


def _separable(layer: Any, ratio: float) -> tuple[int, ...]:
    """A group for each channel, and as many kernels in each as the ratio allows; at least one."""
    channels, taps, units = layer.weight.shape[1], math.prod(layer.weight.shape[2:]), layer.weight.shape[0]
    most = min(taps, int(ratio * channels * taps * units / (channels * (taps + units))))
    return channels, channels * max(1, most)


def _grouped(layer: Any, ratio: float) -> tuple[int, ...]:
    """The fewest groups that meet the ratio; the most that there can be where none does."""
    units, channels = layer.weight.shape[:2]
    whole = math.gcd(units, channels)
    possible = [groups for groups in range(2, whole + 1) if whole % groups == 0] or [1]
    allowed = ratio * layer.weight.numel()
    meeting = (groups for groups in possible if layer.weight.numel() // groups + units * units <= allowed)
    return next(meeting, possible[-1]), units


def _narrowed_to(network: Network, made: Network, readers: Collection[str]) -> Iterator[str]:
    """What became of each narrower pair, in words, by the layer that reads it."""
    for path in sorted(readers):
        reads: list[Any] = [each.module.get_submodule(path) for each in (network, made)]
        before, after = (layer.weight.shape[1] for layer in reads)
        yield f"{path} reads {after} of the {before} channels that it read"


def pair(network: Network, group: Group) -> tuple[str, ...]:
    """The two plain layers, by their weights, between which the group's channels run; empty for any other group.

    Between the two there may be batch norms and depthwise kernels, which go with their channels.
    """
    plain = {member.tensor for member in group.members if _is_plain(network, member.tensor)}
    owners = {member.axis: member.tensor for member in group.members if member.tensor in plain and _is_matrix(network, member)}
    matrices = tuple(owners.get(axis, "") for axis in (0, 1))
    count = len({tensor.rpartition(".")[0] for tensor in plain})
    others = {member.tensor for member in group.members} - plain
    goes_along = all(isinstance(_layer(network, tensor), (*BATCH_NORMS, nn.Conv1d, nn.Conv2d)) for tensor in others)
    return matrices if all(matrices) and count == 2 and goes_along else ()


def _is_plain(network: Network, tensor: str) -> bool:
    layer: Any = _layer(network, tensor)
    return type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d) and getattr(layer, "groups", 1) == 1


def _is_matrix(network: Network, member: Member) -> bool:
    return edits.value(network.module, member.tensor).ndim > 1


def _layer(network: Network, tensor: str) -> nn.Module:
    return network.module.get_submodule(tensor.rpartition(".")[0])
