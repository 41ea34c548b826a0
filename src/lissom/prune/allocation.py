"""Allocation: how many weights each layer loses, when the network as a whole is to lose so many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.job import Job
from lissom.measure.metrics import divergence
from lissom.network import flatten_outputs

__all__ = ["ALLOCATIONS", "RANKINGS", "Setting", "lowest", "scaled_by_layer"]

KEPT_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
SENSITIVITY_SAMPLES = 512


@dataclass(frozen=True)
class Setting:
    """What an allocation decides by.

    Args:
        scores: Importance of every weight, by tensor; below zero where it is masked already.
        values: The weights.
        sparsity: Share of all these weights that is to be zero.
        module: The module that holds them.
        job: Where data comes from, if it is asked.
    """

    scores: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    sparsity: float
    module: nn.Module
    job: Job

    @property
    def sizes(self) -> npt.NDArray[np.float64]:
        """Weights in each tensor."""
        return np.array([score.numel() for score in self.scores.values()], np.float64)

    def removing(self, kept: npt.NDArray[np.float64]) -> dict[str, int]:
        """Removed counts by name from kept (fractional) counts in the same order."""
        return {name: math.floor(size - keep + 1e-6) for name, size, keep in zip(self.scores, self.sizes, kept, strict=True)}


def lowest(score: Tensor, count: int) -> Tensor:
    """True at the ``count`` lowest entries of ``score``; of equal ones the first.

    >>> lowest(torch.tensor([[3.0, 1.0], [1.0, 2.0]]), 1).tolist()
    [[False, True], [False, False]]
    """
    flat = score.flatten()
    if count <= 0:
        return torch.zeros_like(score, dtype=torch.bool)
    bound = torch.kthvalue(flat, count).values  # a twentieth of the time of a stable sort
    chosen = flat < bound
    chosen[(flat == bound).nonzero().flatten()[: count - int(chosen.sum())]] = True
    return chosen.reshape(score.shape)


def _uniform(setting: Setting) -> dict[str, int]:
    return setting.removing(setting.sizes * (1 - setting.sparsity))


def _own(setting: Setting) -> dict[str, int]:
    """Kept shares in proportion to 1 - Hoyer's sparsity (arXiv:0811.4706): a layer whose mass sits in few weights loses more."""
    density = np.array([1 - _hoyer(value) for value in setting.values.values()])
    return setting.removing(_fill(setting.sizes, density, (1 - setting.sparsity) * setting.sizes.sum()))


def _hoyer(value: Tensor) -> float:
    size, length = value.numel(), float(value.double().norm())
    if size < 2 or length == 0:
        return 0.0
    return (math.sqrt(size) - float(value.double().abs().sum()) / length) / (math.sqrt(size) - 1)


def _fill(sizes: npt.NDArray[np.float64], density: npt.NDArray[np.float64], total: float) -> npt.NDArray[np.float64]:
    """Kept counts ``min(size, factor * size * density)`` whose sum is ``total``, by bisection on the factor."""
    low, high = 0.0, 1 / max(float(density.min()), 1e-6)
    for _ in range(60):
        factor = (low + high) / 2
        low, high = (factor, high) if np.minimum(sizes, factor * sizes * density).sum() < total else (low, factor)
    return np.minimum(sizes, high * sizes * density)


def _sensitivity(setting: Setting) -> dict[str, int]:
    """Least sum of divergences, each measured on validation data with one layer pruned alone.

    Every layer is tried at a quarter to four times the kept share; a linear program mixes neighbouring trials so that
    the total is met exactly.
    """
    from scipy.optimize import linprog

    shares = sorted({min(1.0, factor * (1 - setting.sparsity)) for factor in KEPT_FACTORS})
    inputs, _ = setting.job.data.validation.first(SENSITIVITY_SAMPLES)
    reference = _run(setting.module, inputs)
    losses, kept, owner = [], [], []
    with setting.job.progress.task("measuring sensitivity", len(setting.scores)) as task:
        for index, (name, score) in enumerate(setting.scores.items()):
            for share in shares:
                setting.job.check_time()
                trial = edits.copy_module(setting.module)
                removed = lowest(score, score.numel() - math.ceil(share * score.numel()))
                edits.attach(trial, name, mask=~removed)
                moved = divergence(_run(trial, inputs), reference, setting.job.data.task)
                losses.append(float(moved.mean()))
                kept.append(share * score.numel())
                owner.append(index)
            task.advance()
    one_each = (np.array(owner)[None, :] == np.arange(len(setting.scores))[:, None]).astype(float)
    total = (1 - setting.sparsity) * setting.sizes.sum()
    solved = linprog(losses, A_eq=np.vstack([one_each, kept]), b_eq=[*np.ones(len(one_each)), total], bounds=(0, 1))
    return setting.removing(one_each @ (np.array(kept) * solved.x))


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    device = next(module.parameters()).device
    training = [part for part in module.modules() if part.training]
    module.eval()
    with torch.no_grad():
        outputs = flatten_outputs(module(*(tensor.to(device) for tensor in inputs)))
    for part in training:
        part.training = True
    return tuple(output.cpu() for output in outputs)


def scaled_by_layer(score: Tensor) -> Tensor:
    """Scores over their root mean square, so that a layer of small weights is not removed whole."""
    return score / score.clamp(min=0).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)


def _lamp(score: Tensor) -> Tensor:
    """The square of each score over the sum of the squares at least as large, in its layer (arXiv:2010.07611)."""
    flat = score.clamp(min=0).flatten().double()
    alive = flat.nonzero().flatten()  # those that are zero score zero, and need no sorting
    order = alive[torch.argsort(flat[alive], stable=True)]
    squares = flat[order].square()
    above = squares.flip(0).cumsum(0).flip(0)
    lamp = torch.zeros_like(flat)
    lamp[order] = squares / above.clamp(min=torch.finfo(torch.float64).tiny)
    return lamp.reshape(score.shape)


RANKINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "global": lambda score: score,
    "scaled": scaled_by_layer,
    "lamp": _lamp,
}
"""What a layer's scores become before all weights of the network are ranked together."""


def _ranked(by: Callable[[Tensor], Tensor]) -> Callable[[Setting], dict[str, int]]:
    def allocate(setting: Setting) -> dict[str, int]:
        masked = {name: score < 0 for name, score in setting.scores.items()}
        ranks = [torch.where(masked[name], -1.0, by(score).double()).flatten() for name, score in setting.scores.items()]
        gone = lowest(torch.cat(ranks), math.floor(setting.sparsity * setting.sizes.sum() + 1e-6))
        counts = [int(part.sum()) for part in torch.split(gone, [len(rank) for rank in ranks])]
        return dict(zip(setting.scores, counts, strict=True))

    return allocate


ALLOCATIONS: dict[str, Callable[[Setting], dict[str, int]]] = {
    "uniform": _uniform,
    "own": _own,
    "sensitivity": _sensitivity,
    **{name: _ranked(by) for name, by in RANKINGS.items()},
}
"""By name: from a setting to the number of weights that each tensor loses, those that it has lost already among them."""
