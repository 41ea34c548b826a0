"""Substitute: a lighter kind of layer takes a layer's place, started from the trained weights."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from annotated_types import Gt
from torch import nn

from lissom import edits
from lissom.calibrate.batch_norm import BATCH_NORMS
from lissom.factorize.fit import Target
from lissom.factorize.layers import Limit
from lissom.factorize.ranks import sizes_for
from lissom.factorize.replacing import Places
from lissom.graph.groups import Group
from lissom.job import Job, Step, step
from lissom.network import Network
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
        method = "tucker" if self.kind == "bottleneck" else "grouped"
        places = Places.of(network, job, method, samples=self.samples, include=self.include, exclude=self.exclude)
        return places.replaced(self._sizes, job)

    def _sizes(self, _: str, layer: nn.Module, target: Target) -> tuple[int, ...]:  # noqa: ARG002 - what Places asks
        if self.kind == "bottleneck":
            return sizes_for(layer, "tucker", self.ratio)
        return _separable(layer, self.ratio) if self.kind == "separable" else _grouped(layer, self.ratio)

    def _narrowed(self, network: Network, job: Job) -> Network:
        """The network with fewer channels between pairs of layers: a case of pruning channels."""
        chosen = set(edits.selected(network.module, self.include, self.exclude))
        how = PruneChannels(ratio=1 - self.ratio, scope="group", samples=self.samples)
        made = prune(how, network, job, lambda _, found: [each for each in found if (pair(network, each) or ("",))[0] in chosen])
        return made if len(made.slices) > len(network.slices) else made.noting("no pair of layers could be made narrower")


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


def pair(network: Network, group: Group) -> tuple[str, ...]:
    """The two plain layers, by their weights, between which the group's channels run; empty for any other group."""
    plain = (nn.Linear, nn.Conv1d, nn.Conv2d)
    owners = {member.axis: member.tensor for member in group.members if _kind(network, member.tensor) in plain}
    others = {_kind(network, member.tensor) for member in group.members} - {*plain, *BATCH_NORMS}
    matrices = tuple(owners.get(axis, "") for axis in (0, 1))
    count = len({member.tensor.rpartition(".")[0] for member in group.members if _kind(network, member.tensor) in plain})
    return matrices if all(matrices) and count == 2 and not others else ()


def _kind(network: Network, tensor: str) -> type[nn.Module]:
    return type(network.module.get_submodule(tensor.rpartition(".")[0]))
