"""EqualizeLayers: scale channels between neighbouring layers, so that one scale per tensor or group fits all of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from lissom import edits
from lissom.calibrate.layers import Layer
from lissom.calibrate.walk import Walk
from lissom.deploy.fold import fold_batch_norm
from lissom.graph.rules import operator_name
from lissom.job import Job, Step, step
from lissom.network import Network

__all__ = ["EqualizeLayers"]

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "dropout"})
"""Operators through which a positive factor per channel passes unchanged."""

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pair:
    """A layer, and the one that alone reads its outputs, channel by channel."""

    first: Layer
    second: Layer


@step
class EqualizeLayers(Step):
    """Give the channels between two layers equal ranges in both (cross-layer equalisation, Nagel et al., arXiv:1906.04721).

    A factor per channel moves from a layer's weights to the next one's: the root of the one range over the other. It passes
    a ReLU or a pooling unchanged, so the network answers as before; a ReLU6 stops it. Normalisations are folded first.
    Layers that carry an edit, or share their weight, stay as they are.

    Args:
        rounds: How often all pairs are gone through; a layer in the middle of a chain is part of two.

    Example:
        >>> EqualizeLayers().to_dict()
        {'EqualizeLayers': {}}
    """

    rounds: int = 3

    def apply(self, network: Network, job: Job) -> Network:  # noqa: ARG002 - no data is needed
        """The equalised network; as it was but for folding, where its answers would have changed."""
        equal = edits.copy(network)
        kept = {name for name, _ in edits.edited(equal.module).items()}
        fold_batch_norm(equal.module, equal.example_inputs, keep=kept)
        folded = edits.copy(equal)
        pairs = _pairs(equal)
        with torch.no_grad():
            for _ in range(self.rounds):
                for pair in pairs:
                    _equalize(equal, pair)
        if not _alike(folded, equal):
            return folded.noting("layers are not equalised: the network's answers would change")
        return equal.noting(f"{len(pairs)} pairs of layers are equalised")


def _pairs(network: Network) -> list[Pair]:
    tied, edited = edits.aliases(network.module), edits.edited(network.module)
    layers = list(Walk(network, [network.example_inputs]).layers())
    calls = [layer.name for layer in layers]
    free = {
        layer.node: layer
        for layer in layers
        if calls.count(layer.name) == 1 and len(tied[layer.name]) == 1 and layer.name not in edited
    }
    found = []
    for first in free.values():
        second = free.get(_only_reader(first.node))  # type: ignore[arg-type]
        if second is not None and _fit(first, second):
            found.append(Pair(first, second))
    return found


def _only_reader(node: fx.Node) -> fx.Node | None:
    """The node that alone reads a value, behind operators that factors pass."""
    users = list(node.users)
    if len(users) != 1:
        return None
    return _only_reader(users[0]) if operator_name(users[0].target) in HOMOGENEOUS else users[0]


def _fit(first: Layer, second: Layer) -> bool:
    """Whether the outputs of the one are the inputs of the other, channel by channel."""
    outputs, reads = first.walk.shape(first.weight_node), second.walk.shape(second.weight_node)
    if first.bias_comes_after or second.bias_comes_after or first.is_convolution != second.is_convolution:
        return False
    return (second.groups == 1 and reads[1] == outputs[0]) or second.groups == reads[0] == outputs[0]


def _equalize(network: Network, pair: Pair) -> None:
    first, second = (edits.latent(network.module, layer.name) for layer in (pair.first, pair.second))
    axis = 1 if pair.second.groups == 1 else 0
    ours, theirs = _ranges(first, 0), _ranges(second, axis)
    factor = torch.where((ours > 0) & (theirs > 0), (ours / theirs.clamp(min=1e-12)).sqrt(), 1.0).clamp(1e-4, 1e4)
    first.div_(_along(factor, first, 0))
    second.mul_(_along(factor, second, axis))
    if pair.first.bias is not None:
        edits.latent(network.module, pair.first.bias).div_(factor)


def _ranges(weight: Tensor, axis: int) -> Tensor:
    return weight.detach().abs().movedim(axis, 0).flatten(1).amax(1)


def _along(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    return factor.reshape([-1 if other == axis else 1 for other in range(weight.ndim)])


def _alike(before: Network, after: Network) -> bool:
    pairs = zip(before.outputs(*before.example_inputs), after.outputs(*after.example_inputs), strict=True)
    return all(bool((a - b).abs().max() <= TOLERANCE * a.abs().max().clamp(min=1e-12)) for a, b in pairs)
