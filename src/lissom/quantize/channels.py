"""Channels: which axis of a weight counts the outputs, so that a scale per channel leaves the sums of a layer exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lissom.deploy.quantized_graph import is_quantized_graph, wide_weights
from lissom.network import Network

__all__ = ["OUTPUT_AXES", "bits_of", "output_axis"]


def _after_inputs(_: Any) -> int:
    return 1


OUTPUT_AXES: dict[type[nn.Module], Callable[[Any], int]] = {
    nn.ConvTranspose1d: _after_inputs,
    nn.ConvTranspose2d: _after_inputs,
    nn.ConvTranspose3d: _after_inputs,
    nn.Bilinear: lambda _: 0,
}
"""The exceptions: modules whose weight does not have its outputs first."""


def output_axis(module: nn.Module, name: str) -> int:
    """The axis of the tensor ``name`` along which channels are counted.

    The first, as torch's layers have it, but for the modules in :data:`OUTPUT_AXES`; a module may say otherwise by a
    mapping ``channel_axes`` from its own tensor names to axes, as those that lissom reads from ONNX files do.

    >>> output_axis(nn.Sequential(nn.ConvTranspose2d(3, 8, 2)), "0.weight")
    1
    """
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    said = getattr(owner, "channel_axes", {})
    if attribute in said:
        return int(said[attribute])
    rule = next((rule for kind, rule in OUTPUT_AXES.items() if isinstance(owner, kind)), None)
    return 0 if rule is None else rule(owner)


def bits_of(network: Network, name: str, bits: int) -> int:
    """The bits of a weight where ``bits`` are asked for: at least 8 in the first and last layer of a quantized graph."""
    return max(bits, 8) if bits <= 4 and is_quantized_graph(network) and name in wide_weights(network) else bits
