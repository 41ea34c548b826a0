"""Sensitivity: what quantizing each layer alone does to it and to the network's outputs; where accuracy goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom import edits
from lissom.grids import Affine
from lissom.network import Network
from lissom.quantize.channels import output_axis

__all__ = ["LayerError", "sensitivities", "signal_to_noise"]


@dataclass(frozen=True)
class LayerError:
    """What so many bits do to one weight while all others stay as they are.

    Args:
        name: The weight.
        bits: Of a level, with one scale per output channel.
        signal_to_noise: Of the weight, in decibels: ten times the logarithm of signal over quantization noise.
        output_error: Squared change of the network's outputs over their squared size.
        bytes: Of levels and scales, before entropy coding.
    """

    name: str
    bits: int
    signal_to_noise: float
    output_error: float
    bytes: int


def sensitivities(
    network: Network, batches: Sequence[tuple[Tensor, ...]], bits: Sequence[int] = (8,), names: Sequence[str] | None = None
) -> tuple[LayerError, ...]:
    """Quantize each weight alone, run the network, and compare its outputs with those before.

    Args:
        network: It is left as it was; what it computes now is the reference.
        batches: Inputs of calibration samples, without labels.
        bits: The widths to try, 2 to 16.
        names: The weights; by default every matrix and kernel that is on no grid yet.

    Returns:
        One entry for each weight and width, weights in the network's order.

    Example:
        >>> network = Network(torch.nn.Linear(4, 2), (torch.ones(2, 4),))
        >>> [round(found.bits) for found in sensitivities(network, [(torch.randn(8, 4),)], bits=(4, 8))]
        [4, 8]
    """
    expected = [network.outputs(*inputs) for inputs in batches]
    tried = edits.copy(network)
    found = []
    for name in names if names is not None else _free(network):
        weight = edits.value(tried.module, name).clone()
        for width in bits:
            grid = _grid(weight, width, output_axis(tried.module, name))
            rounded = grid.values(grid.levels(weight)).to(weight.dtype)
            _set(tried, name, rounded)
            got = [tried.outputs(*inputs) for inputs in batches]
            size = -(-weight.numel() * width // 8) + 4 * grid.scale.numel()
            found.append(LayerError(name, width, signal_to_noise(weight, rounded), _relative(got, expected), size))
        _set(tried, name, weight)
    return tuple(found)


def signal_to_noise(signal: Tensor, rounded: Tensor) -> float:
    """The ratio of the signal's energy to that of its rounding error, in decibels; infinite where nothing changed.

    >>> round(signal_to_noise(torch.tensor([10.0]), torch.tensor([9.0])), 1)
    20.0
    """
    noise = float((signal.double() - rounded.double()).square().sum())
    energy = float(signal.double().square().sum())
    return math.inf if noise == 0 else 10 * math.log10(max(energy, 1e-300) / noise)


def _free(network: Network) -> list[str]:
    edited = edits.edited(network.module)
    return [name for name in edits.selected(network.module) if name not in edited or edited[name].grid is None]


def _grid(weight: Tensor, bits: int, axis: int) -> Affine:
    return Affine.fit(weight.float(), bits=bits, channel_axis=axis, range="mse" if bits < 8 else "minmax")


def _set(network: Network, name: str, value: Tensor) -> None:
    with torch.no_grad():
        edits.latent(network.module, name).copy_(value)


def _relative(got: Sequence[tuple[Tensor, ...]], expected: Sequence[tuple[Tensor, ...]]) -> float:
    """The largest over the outputs of their relative squared errors."""
    errors = []
    for ours, theirs in zip(zip(*got, strict=True), zip(*expected, strict=True), strict=True):
        a, b = (torch.cat([part.flatten().double() for part in parts]) for parts in (ours, theirs))
        errors.append(float((a - b).square().sum() / b.square().sum().clamp(min=1e-30)))
    return max(errors)
