"""Fit: the weights of a block that computes most nearly what a layer computed, on its weights or on its real inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lissom.calibrate.moments import Moments
from lissom.graph.blocks import block, kernel_of

__all__ = ["Target", "fit", "root_of", "target_of", "times", "weighted_rows"]

RIDGE = 1e-3
"""Added to the covariance of the inputs, relative to its mean diagonal: directions that the data never shows still count."""

STEPS = 80
"""Iterations of L-BFGS on the factors; the error is a smooth function of few of them, and has settled by then."""


@dataclass(frozen=True)
class Target:
    """What a block should compute, as its error is a quadratic form: ``tr(E metric E^T)`` for ``E = weight - kernel``.

    Args:
        weight: [units, width], float64.
        answer: Mean of the wanted outputs: [units].
        mean: Mean of the inputs: [width].
        metric: [width, width] covariance of the inputs; or [width], its diagonal.
        positions: How many inputs that rests on; None where it rests on none.
    """

    weight: Tensor
    answer: Tensor
    mean: Tensor
    metric: Tensor
    positions: int | None = None


def target_of(layer: nn.Module, moments: Moments | None = None) -> Target:
    """The layer's own weights, or, with moments, the weights that on its inputs come closest to the wanted answers.

    Args:
        layer: A ``Linear``, ``Embedding`` or plain convolution.
        moments: From :func:`lissom.calibrate.moments.collect`; None makes every weight count the same.
    """
    part: Any = layer
    weight = part.weight.detach().double().cpu()
    weight = weight.T if isinstance(layer, nn.Embedding) else weight.flatten(1)
    bias = getattr(part, "bias", None)
    if moments is None:
        answer = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        return Target(weight, answer, torch.zeros_like(weight[0]), torch.ones_like(weight[0]))
    covariance = moments.covariance
    scale = covariance.diagonal().mean().clamp(min=1e-12)
    metric = covariance + RIDGE * scale * torch.eye(len(covariance), dtype=torch.float64)
    shift = torch.linalg.solve(metric, (moments.common - weight @ covariance).T).T
    return Target(weight + shift, moments.answer, moments.mean, metric, moments.count)


def weighted_rows(layer: nn.Embedding, counts: Tensor) -> Target:
    """The target of an embedding whose row ``i`` is read ``counts[i]`` times: [rows]."""
    share = (counts.double() + 1) / (counts.double() + 1).sum()
    rows = layer.weight.detach().double().cpu().T
    answer = rows @ share
    return Target(rows - answer[:, None], answer, torch.zeros_like(share), share)


def fit(layer: nn.Module, method: str, sizes: tuple[int, ...], target: Target) -> tuple[nn.Sequential, float]:
    """The block with the weights that meet the target best.

    Factors of a matrix are exact: a singular value decomposition in the metric of the inputs. The others start from
    the decomposition of the weights, and L-BFGS then moves the factors in that metric.

    Returns:
        The block, and its squared error relative to the target's own size (0: exact, 1: no better than the mean answer).

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> _, error = fit(layer, "channel", (4,), target_of(layer))
        >>> error < 1e-9
        True
    """
    made = block(layer, method, sizes).double().cpu()
    with torch.no_grad():
        _START[method](made, layer, target)
        _scale(made)
    if method != "channel" and target.metric.ndim == 2:
        _refine(made, method, target)
    with torch.no_grad():
        kernel = kernel_of(made, method)
        _parts(made)[-1].bias.copy_(target.answer - kernel @ target.mean)
        error = _error(kernel, target)
    weight = next(layer.parameters())
    made.to(device=weight.device, dtype=weight.dtype)
    return made, float(error)


def root_of(target: Target) -> Tensor:
    """A matrix (or, of a diagonal metric, a vector) whose square is the metric."""
    if target.metric.ndim == 1:
        return target.metric.sqrt()
    root: Tensor = torch.linalg.cholesky(target.metric)
    return root


def times(weight: Tensor, root: Tensor) -> Tensor:
    """``weight @ root``, whichever form the root has."""
    return weight * root if root.ndim == 1 else weight @ root


def _error(kernel: Tensor, target: Target) -> Tensor:
    root = root_of(target)
    return (times(target.weight - kernel, root) ** 2).sum() / (times(target.weight, root) ** 2).sum().clamp(min=1e-30)


def _refine(made: nn.Sequential, method: str, target: Target) -> None:
    """Move the factors to where the error on the inputs is least, or leave them where that does not help."""
    parameters = [part.weight for part in _parts(made)]
    before = [parameter.detach().clone() for parameter in parameters]
    root = root_of(target)
    size = (times(target.weight, root) ** 2).sum().clamp(min=1e-30)
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = ((target.weight - kernel_of(made, method)) @ root).square().sum() / size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        start = float(_error(kernel_of(made, method), target))
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if not float(_error(kernel_of(made, method), target)) <= start:
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)


def _scale(made: nn.Sequential) -> None:
    """Give all factors the same norm: what they multiply to stays, and training moves each at the same pace."""
    weights = [part.weight for part in _parts(made)]
    norms = [weight.norm().clamp(min=1e-12) for weight in weights]
    common = torch.stack(norms).log().mean().exp()
    for weight, norm in zip(weights, norms, strict=True):
        weight.mul_(common / norm)


def _parts(made: nn.Sequential) -> list[Any]:
    """The layers of a block."""
    return list(made)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``left @ right`` of this rank nearest to ``matrix``, the singular values shared between both."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _whitened(weight: Tensor, metric: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``out @ into`` of this rank for which ``tr(E metric E^T)`` is least."""
    root = metric.sqrt() if metric.ndim == 1 else torch.linalg.cholesky(metric)
    out, into = _factors(times(weight, root), rank)
    if root.ndim == 1:
        return out, into / root.clamp(min=1e-30)
    return out, torch.linalg.solve_triangular(root, into, upper=False, left=False)


def _start_channel(made: Any, layer: nn.Module, target: Target) -> None:
    first, last = made
    rank = last.weight.shape[1]
    out, into = _whitened(target.weight, target.metric, rank)
    last.weight.copy_(out.reshape(last.weight.shape))
    first.weight.copy_(into.T if isinstance(layer, nn.Embedding) else into.reshape(first.weight.shape))


def _kernel(layer: Any, target: Target) -> Tensor:
    """The target's weight in the layer's own shape."""
    return target.weight.reshape(layer.weight.shape)


def _start_spatial(made: Any, layer: nn.Module, target: Target) -> None:
    kernel = _kernel(layer, target)
    units, channels, rows, columns = kernel.shape
    left, right = _factors(kernel.permute(1, 2, 0, 3).reshape(channels * rows, units * columns), made[0].weight.shape[0])
    rank = left.shape[1]
    made[0].weight[:rank] = left.T.reshape(rank, channels, rows, 1)
    made[1].weight[:, :rank] = right.reshape(rank, units, 1, columns).transpose(0, 1)


def _start_tucker(made: Any, layer: nn.Module, target: Target) -> None:
    from tensorly.decomposition import partial_tucker

    kernel = _kernel(layer, target).numpy()
    ranks = [made[2].weight.shape[1], made[0].weight.shape[0]]
    (core, (out, into)), _ = partial_tucker(kernel, rank=ranks, modes=[0, 1], init="svd", n_iter_max=50)
    for part, factor in zip(made, (into.T, core, out), strict=True):
        part.weight.copy_(torch.from_numpy(np.ascontiguousarray(factor)).reshape(part.weight.shape))


def _start_cp(made: Any, layer: nn.Module, target: Target) -> None:
    from tensorly.decomposition import parafac

    rank = made[0].weight.shape[0]
    weights, factors = parafac(_kernel(layer, target).numpy(), rank, init="random", n_iter_max=200, random_state=0)
    out, into, rows, columns = factors
    for part, factor in zip(made, (into.T, rows.T, columns.T, out * weights), strict=True):
        part.weight.copy_(torch.from_numpy(np.ascontiguousarray(factor)).reshape(part.weight.shape))


def _start_grouped(made: Any, _: nn.Module, target: Target) -> None:
    first, last = made
    inner = first.weight.shape[0] // first.groups
    width = target.weight.shape[1] // first.groups
    for group in range(first.groups):
        columns = slice(group * width, (group + 1) * width)
        metric = target.metric[columns] if target.metric.ndim == 1 else target.metric[columns, columns]
        out, into = _whitened(target.weight[:, columns], metric, inner)
        rank = out.shape[1]
        start = group * inner
        last.weight[:, start : start + rank] = out.reshape(len(out), rank, *last.weight.shape[2:])
        first.weight[start : start + rank] = into.reshape(rank, *first.weight.shape[1:])


_START: dict[str, Callable[[Any, nn.Module, Target], None]] = {
    "channel": _start_channel,
    "spatial": _start_spatial,
    "tucker": _start_tucker,
    "cp": _start_cp,
    "grouped": _start_grouped,
}
