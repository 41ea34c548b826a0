"""Reconstruction: refit each layer of a pruned network to what the original computed there, by least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissom import edits
from lissom.calibrate.moments import LARGEST, Moments, collect, collect_halves, run_order
from lissom.network import Network, Scale, Slice

__all__ = ["RIDGE", "kept_rows", "reconstruct"]

RIDGE = 1e-3
"""The pull towards the weights that stand, relative to the mean square of the inputs, where samples are many."""

RIDGES = (RIDGE, 1e-2, 1e-1, 1.0, 10.0)
"""Those among which held-out samples choose."""


@dataclass
class _Layer:
    """A layer to refit: its path, and the rows of the original's output that it still gives."""

    path: str
    rows: Tensor


def reconstruct(
    pruned: Network,
    original: Network,
    batches: Sequence[tuple[Tensor, ...]],
    check_time: Callable[[], None] = lambda: None,
    only: Collection[str] | None = None,
    ridge: float | None = RIDGE,
) -> tuple[str, ...]:
    """Refit the linear and convolutional layers of ``pruned.module`` in place, in the order in which they run.

    Each layer's weights become those that, on the inputs that the pruned network really gives it, come closest to the
    outputs that the original gave (He et al., arXiv:1707.06168); so each layer also mends what the layers before it lost.
    No labels and no gradients are needed. Layers that carry value edits, share their weights, are grouped or were scaled stay
    as they are.

    Args:
        pruned: A network that :mod:`lissom.graph.slicing` made from ``original``.
        original: The network before pruning.
        batches: Inputs of calibration samples; a few hundred samples are enough.
        check_time: Called before each layer; what it raises ends the work.
        only: Paths of the layers that may be refitted; None for all.
        ridge: How strongly layers are held to the weights that stand, relative to the mean square of their inputs. None chooses
            for each layer: fitted on half of the samples, it should do best on the others. Few samples need that.

    Returns:
        Paths of the layers that were refitted.
    """
    kept = kept_rows(original, pruned)
    scaled = {edit.tensor.rpartition(".")[0] for edit in pruned.slices[len(original.slices) :] if isinstance(edit, Scale)}
    called = set(run_order(original, batches[0])) - scaled
    order = [path for path in run_order(pruned, batches[0]) if path in called and (only is None or path in only)]
    layers = _layers(pruned.module, kept, order)
    was_training = pruned.module.training
    pruned.module.eval()
    try:
        with torch.no_grad():
            done = []
            for layer in layers:
                check_time()
                if _refit(layer, pruned.module, original.module, batches, ridge):
                    done.append(layer.path)
    finally:
        pruned.module.train(was_training)
    return tuple(done)


def kept_rows(original: Network, pruned: Network) -> dict[str, tuple[int, ...]]:
    """For each tensor whose first axis was sliced since ``original``: the rows of the original that are left, in order."""
    rows: dict[str, tuple[int, ...]] = {}
    for edit in pruned.slices[len(original.slices) :]:
        if isinstance(edit, Slice) and edit.axis == 0:
            before = rows.get(edit.tensor)
            rows[edit.tensor] = edit.kept if before is None else tuple(before[place] for place in edit.kept)
    return rows


def _layers(module: nn.Module, kept: Mapping[str, tuple[int, ...]], order: Sequence[str]) -> list[_Layer]:
    tied = edits.aliases(module)
    layers = []
    for path in order:
        part, name = module.get_submodule(path), f"{path}.weight" if path else "weight"
        if isinstance(part, nn.Embedding) or name not in tied or len(tied[name]) > 1 or edits.edit_of(module, name) is not None:
            continue
        weight = part.weight
        plain = isinstance(part, nn.Linear) or (part.groups == 1 and part.padding_mode == "zeros" and part.padding != "same")
        if isinstance(weight, Tensor) and plain and math.prod(weight.shape[1:]) <= LARGEST:
            rows = kept.get(name, tuple(range(weight.shape[0])))
            layers.append(_Layer(path, torch.tensor(rows, device=weight.device)))
    return layers


def _refit(
    layer: _Layer, pruned: nn.Module, original: nn.Module, batches: Sequence[tuple[Tensor, ...]], ridge: float | None
) -> bool:
    """Solve ``min |Y - W X|^2 + ridge |W - W0|^2`` from sums over all batches; False where there is nothing to gain."""
    part: Any = pruned.get_submodule(layer.path)
    width = math.prod(part.weight.shape[1:])
    standing = part.weight.detach().flatten(1).double().cpu()
    if part.bias is not None:
        standing = torch.cat([standing, part.bias.detach().double().cpu()[:, None]], 1)
    where = (pruned, original, layer.path, batches, layer.rows)
    if ridge is not None:
        moments = collect(*where)
    elif (halves := collect_halves(*where)) is not None:
        moments, ridge = halves[0] + halves[1], _best_ridge(halves, standing)
    else:
        moments = None
    if moments is None or ridge is None:
        return False
    fitted = _solved(moments, standing, ridge)
    if not bool(torch.isfinite(fitted).all()):
        return False
    fitted = fitted.to(part.weight.dtype)
    part.weight.copy_(fitted[:, :width].reshape(part.weight.shape))
    if part.bias is not None:
        part.bias.copy_(fitted[:, width])
    return True


def _best_ridge(halves: tuple[Moments, Moments], standing: Tensor) -> float:
    """The pull that does best where it was not fitted, each half told by the other."""
    if not all(half.count for half in halves):
        return RIDGE
    pairs = (halves, halves[::-1])
    return min(RIDGES, key=lambda ridge: sum(_error(told, _solved(fit, standing, ridge)) for fit, told in pairs))


def _solved(moments: Moments, standing: Tensor, ridge: float) -> Tensor:
    """The weights, and the bias behind them where there is one."""
    known = standing.shape[1]
    square, mixed = moments.square[:known, :known], moments.mixed[:, :known]
    pull = ridge * square.diagonal().mean().clamp(min=1e-12)
    change: Tensor = torch.linalg.solve(square + pull * torch.eye(known, dtype=square.dtype), (mixed - standing @ square).T)
    return standing + change.T


def _error(moments: Moments, weights: Tensor) -> float:
    """Squared error of the answers that weights give, less what no weights change; infinite where weights are not finite."""
    known = weights.shape[1]
    found = float(((weights @ moments.square[:known, :known] - 2 * moments.mixed[:, :known]) * weights).sum())
    return found if math.isfinite(found) else math.inf
