"""Ranks: how many factors a layer needs, by its share of parameters, by energy, or by the analytic Bayesian estimate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lissom.errors import UsageError
from lissom.factorize.fit import Target, root_of, times
from lissom.graph.blocks import block

__all__ = ["bayesian_rank", "full", "macs_of", "parameters_of", "sizes_by_energy", "sizes_by_estimate", "sizes_for"]


def parameters_of(layer: nn.Module, method: str, sizes: tuple[int, ...]) -> int:
    """How many parameters the block has.

    >>> parameters_of(nn.Linear(8, 6), "channel", (2,))
    34
    """
    with torch.device("meta"):
        made = block(on_meta(layer), method, sizes)
    return sum(parameter.numel() for parameter in made.parameters())


def macs_of(made: nn.Sequential, arrived: Tensor) -> int:
    """Multiply-accumulates of a chain of layers, for one sample of an input like ``arrived``.

    >>> macs_of(nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 6)), torch.zeros(5, 8))
    28
    """
    total, value = 0, torch.empty_like(arrived[:1], device="meta")
    for part in made:
        value = on_meta(part)(value)
        if not isinstance(part, nn.Embedding):
            weight: Any = part.weight
            total += value.numel() // weight.shape[0] * weight.numel()
    return total


def on_meta(layer: nn.Module) -> nn.Module:
    """The layer's form without its weights."""
    return copy.deepcopy(layer, {id(each): nn.Parameter(each.detach().to("meta")) for each in layer.parameters()})


def full(layer: nn.Module, method: str) -> tuple[int, ...]:
    """The sizes above which factors cannot be more exact."""
    part: Any = layer
    units, *rest = part.weight.shape
    width = math.prod(rest)
    if isinstance(layer, nn.Embedding):
        units, width = width, units
    by_method: dict[str, Callable[[], tuple[int, ...]]] = {
        "channel": lambda: (min(units, width),),
        "spatial": lambda: (min(rest[0] * rest[1], units * rest[2]),),
        "tucker": lambda: (min(rest[0], units * math.prod(rest[1:])), min(units, width)),
        "cp": lambda: (width * units // max(units, *rest),),
    }
    return by_method[method]()


def sizes_for(layer: nn.Module, method: str, ratio: float) -> tuple[int, ...]:
    """The largest sizes whose block has at most ``ratio`` times the layer's parameters; at least one factor.

    >>> sizes_for(nn.Linear(64, 64), "channel", 0.5)
    (16,)
    """
    most = full(layer, method)
    weight = next(layer.parameters())
    allowed = ratio * weight.numel()
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        bias = len(weight) if not isinstance(layer, nn.Embedding) else weight.shape[1]
        fits = parameters_of(layer, method, _scaled(most, middle)) - bias <= allowed
        low, high = (middle, high) if fits else (low, middle)
    return _scaled(most, low)


def _scaled(most: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(max(1, int(size * share + 1e-9)) for size in most)


def sizes_by_energy(layer: nn.Module, method: str, target: Target, energy: float) -> tuple[int, ...]:
    """The smallest sizes that keep ``energy`` of the squared singular values, in the metric of the inputs where it applies."""

    def enough(matrix: Tensor) -> int:
        squares = torch.linalg.svdvals(matrix) ** 2
        kept = squares.cumsum(0) / squares.sum().clamp(min=1e-30)
        return int((kept < energy).sum()) + 1

    return tuple(enough(matrix) for matrix in _matrices(layer, method, target, in_metric=True))


def sizes_by_estimate(layer: nn.Module, method: str, target: Target) -> tuple[int, ...]:
    """The ranks that the analytic Bayesian estimate finds in the weights, whose noise it takes to be even."""
    return tuple(max(1, bayesian_rank(each.numpy())) for each in _matrices(layer, method, target, in_metric=False))


def _matrices(layer: nn.Module, method: str, target: Target, *, in_metric: bool) -> list[Tensor]:
    """The matrices whose ranks are a method's sizes."""
    part: Any = layer
    weight = times(target.weight, root_of(target)) if in_metric else target.weight
    if method == "channel":
        return [weight]
    kernel = target.weight.reshape(part.weight.shape)
    if method == "spatial":
        return [kernel.permute(1, 2, 0, 3).reshape(kernel.shape[1] * kernel.shape[2], -1)]
    if method == "tucker":
        return [kernel.transpose(0, 1).flatten(1), weight]
    raise UsageError(f"Factorize: the rank of {method} factors follows from no matrix: give ratio, macs or parameters")


def bayesian_rank(matrix: npt.NDArray[np.float64]) -> int:
    """The rank of what is not noise in ``matrix``: the global analytic solution of empirical variational Bayesian matrix
    factorization with the noise's variance estimated (Nakajima et al., JMLR 14, 2013, theorem 2 and corollary 2).

    >>> signal = np.outer(np.arange(20.0), np.arange(30.0))
    >>> bayesian_rank(signal + np.random.default_rng(0).normal(size=(20, 30)))
    1
    """
    from scipy.optimize import minimize_scalar

    short, long = sorted(matrix.shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    squares = np.maximum(values**2, 1e-300)
    aspect = short / long
    edge = 2.5129 * math.sqrt(aspect)
    threshold = (1 + edge) * (1 + aspect / edge)
    above = min(math.ceil(short / (1 + aspect)) - 1, short - 1)
    highest = squares.sum() / (short * long)
    lowest = max(squares[above] / (long * threshold), squares[above:].mean() / long)
    if not lowest < highest:
        return 0
    found = minimize_scalar(_free_energy, bounds=(lowest, highest), args=(squares, short, long, threshold), method="bounded")
    return int((squares > long * found.x * threshold).sum())


def _free_energy(noise: float, squares: npt.NDArray[np.float64], short: int, long: int, threshold: float) -> float:
    """The free energy, but for constants, when the noise has variance ``noise``."""
    aspect = short / long
    x = squares / (long * noise)
    signal, rest = x[x > threshold], x[x <= threshold]
    shrunk = signal - (1 + aspect)
    tau = 0.5 * (shrunk + np.sqrt(np.maximum(shrunk**2 - 4 * aspect, 0)))
    told = (signal - tau + np.log((tau + 1) / signal) + aspect * np.log(tau / aspect + 1)).sum()
    return float((rest - np.log(rest)).sum() + told + (short - len(squares)) * math.log(noise))
