"""Ranges: how much of a distribution a grid covers; what lies outside is clamped.

Each formula takes rows of points, [cells, points], and optionally how often each point occurs (a histogram's counts, of
the same shape), and gives the lowest and the highest value covered, [cells] each. Weights are their own points; streamed
activations come as the bin centres of a histogram.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

__all__ = ["RANGES", "Range", "divergence_optimal", "min_max", "percentile", "squared_error_optimal", "standard_deviations"]

FRACTIONS = 80
"""Clipped ranges that a search tries, from the whole range down to a twentieth."""


class Range(Protocol):
    """From a distribution, bits and symmetry to what is covered."""

    def __call__(self, points: Tensor, bits: int, symmetric: bool, counts: Tensor | None = None, /) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value covered, [cells] each."""


def min_max(points: Tensor, bits: int, symmetric: bool, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """Everything that occurs.

    >>> min_max(torch.tensor([[-1.0, 0.0, 3.0]]), 8, False)
    (tensor([-1.]), tensor([3.]))
    """
    if counts is None:
        return points.amin(1), points.amax(1)
    return points.where(counts > 0, torch.inf).amin(1), points.where(counts > 0, -torch.inf).amax(1)


def standard_deviations(
    points: Tensor, bits: int, symmetric: bool, counts: Tensor | None = None, *, k: float | None = None
) -> tuple[Tensor, Tensor]:
    """``mean ± k * std``, inside of what occurs; by default k is 2 at 2 bits and a half more for each further bit.

    >>> standard_deviations(torch.tensor([[-1.0, 1.0]]), 8, False, k=0.5)
    (tensor([-0.5000]), tensor([0.5000]))
    """
    weight = torch.ones_like(points) if counts is None else counts
    share = weight / weight.sum(1, keepdim=True)
    mean = (share * points).sum(1)
    spread = (share * (points - mean[:, None]).square()).sum(1).sqrt() * (1 + bits / 2 if k is None else k)
    low, high = min_max(points, bits, symmetric, counts)
    return torch.maximum(mean - spread, low), torch.minimum(mean + spread, high)


def percentile(
    points: Tensor,
    bits: int,  # noqa: ARG001 - one signature for all
    symmetric: bool,
    counts: Tensor | None = None,
    *,
    share: float = 0.9999,
) -> tuple[Tensor, Tensor]:
    """The central ``share`` of the points; symmetric, the smallest ``[-a, a]`` that holds that share.

    >>> percentile(torch.arange(101.0)[None], 8, False, share=0.9)
    (tensor([5.]), tensor([95.]))
    """
    if symmetric:
        high = _quantile(points.abs(), counts, share)
        return -high, high
    return _quantile(points, counts, (1 - share) / 2), _quantile(points, counts, (1 + share) / 2)


def _quantile(points: Tensor, counts: Tensor | None, share: float) -> Tensor:
    """The smallest point with at least ``share`` of the mass at or below it."""
    ordered, order = points.sort(1)
    mass = (torch.ones_like(points) if counts is None else counts).gather(1, order).double().cumsum(1)
    wanted = (mass[:, -1:] * share * (1 - 1e-12)).contiguous()
    return ordered.gather(1, torch.searchsorted(mass, wanted).clamp(max=points.shape[1] - 1)).squeeze(1)


def squared_error_optimal(points: Tensor, bits: int, symmetric: bool, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The clipped range of least squared error after rounding to ``bits``, clipping against resolution.

    >>> low, high = squared_error_optimal(torch.cat([torch.linspace(-1, 1, 999), torch.tensor([9.0])])[None], 4, True)
    >>> bool(high < 9)
    True
    """

    def error(low: Tensor, high: Tensor) -> Tensor:
        gap = (_rounded(points, low, high, _steps(bits, symmetric)) - points).square()
        return (gap if counts is None else gap * counts).sum(1)

    return _search(points, bits, symmetric, counts, error)


def divergence_optimal(points: Tensor, bits: int, symmetric: bool, counts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The clipped range whose rounded histogram has the least Kullback-Leibler divergence from the whole one's.

    The points are counted in 2,048 bins, those outside the range in its outermost bins; each level shares its count evenly
    among the bins that are occupied (Migacz, 8-bit inference with TensorRT, 2017).

    >>> bell = torch.erfinv(torch.linspace(-0.999, 0.999, 999))
    >>> low, high = divergence_optimal(torch.cat([bell, torch.tensor([90.0])])[None], 4, True)
    >>> bool(high < 90)
    True
    """
    bins = 2048
    low, high = min_max(points, bits, symmetric, counts)
    width = (high - low).clamp(min=torch.finfo(torch.float32).tiny) / bins
    number = ((points - low[:, None]) / width[:, None]).floor().clamp(0, bins - 1).long()
    ones = torch.ones_like(points) if counts is None else counts.to(points.dtype)
    histogram = torch.zeros(len(points), bins, dtype=points.dtype, device=points.device).scatter_add_(1, number, ones)
    centres = low[:, None] + width[:, None] * (torch.arange(bins, device=points.device) + 0.5)

    def error(low: Tensor, high: Tensor) -> Tensor:
        return _divergence(histogram, centres, low, high, _steps(bits, symmetric))

    return _search(points, bits, symmetric, counts, error)


def _divergence(histogram: Tensor, centres: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """KL of the clipped histogram from the rounded one, per row."""
    step = ((high - low) / steps).clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    inside = (centres >= low[:, None]) & (centres <= high[:, None])
    level = ((centres - low[:, None]) / step).round().clamp(0, steps).long()
    occupied = (histogram > 0) & inside

    def by_level(amount: Tensor) -> Tensor:
        sums = torch.zeros(len(level), steps + 1, dtype=amount.dtype, device=amount.device).scatter_add_(1, level, amount)
        return sums.gather(1, level)

    rounded = torch.where(occupied, by_level(histogram * inside) / by_level(occupied.to(histogram.dtype)).clamp(min=1), 0.0)
    # What is clipped is counted in the outermost occupied bins of the reference alone, and so has its price.
    first, last = occupied.int().argmax(1), occupied.shape[1] - 1 - occupied.int().flip(1).argmax(1)
    reference = torch.where(inside, histogram, 0.0)
    for side, place in ((centres < low[:, None], first), (centres > high[:, None], last)):
        reference.scatter_add_(1, place[:, None], (histogram * side).sum(1, keepdim=True))
    p = reference / reference.sum(1, keepdim=True).clamp(min=1e-12)
    q = rounded / rounded.sum(1, keepdim=True).clamp(min=1e-12)
    surprise: Tensor = (p.clamp(min=1e-12) / q.clamp(min=1e-12)).log()
    return torch.where(p > 0, p * surprise, 0.0).sum(1)


def _steps(bits: int, symmetric: bool) -> int:
    """Steps from the lowest level to the highest: a symmetric grid leaves one level out to have zero in its middle."""
    return max(int(2**bits) - (2 if symmetric else 1), 1)


def _rounded(points: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    step = ((high - low) / steps).clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    zero = (-low[:, None] / step).round()
    return ((points / step).round() + zero).clamp(0, steps).sub(zero) * step


class _Error(Protocol):
    def __call__(self, low: Tensor, high: Tensor, /) -> Tensor: ...


def _search(points: Tensor, bits: int, symmetric: bool, counts: Tensor | None, error: _Error) -> tuple[Tensor, Tensor]:
    """The range of least error among those shrunk towards zero by the same fraction on both sides; ties keep more."""
    low, high = min_max(points, bits, symmetric, counts)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    low, high = low.clamp(max=0), high.clamp(min=0)
    least = torch.full_like(low, torch.inf)
    best = torch.ones_like(low)
    for fraction in torch.linspace(1.0, 0.05, FRACTIONS).tolist():
        found = error(low * fraction, high * fraction)
        better = found < least
        least, best = torch.where(better, found, least), torch.where(better, fraction, best)
    return low * best, high * best


RANGES: dict[str, Range] = {
    "minmax": min_max,
    "std": standard_deviations,
    "percentile": percentile,
    "mse": squared_error_optimal,
    "kl": divergence_optimal,
}
"""Every range by the name that steps and deploy settings give it."""
