"""Channel importance: how much a network would miss each index of a coupled group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.graph.groups import Group, Member
from lissom.job import Job
from lissom.prune.importance import gradients

__all__ = ["CHANNEL_IMPORTANCES", "channel_importance", "collect", "magnitudes"]

Scores = dict[Group, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Setting:
    """What importances are computed from."""

    module: nn.Module
    groups: Sequence[Group]
    job: Job
    samples: int


def channel_importance(module: nn.Module, groups: Sequence[Group], how: str, job: Job, *, samples: int = 512) -> Scores:
    """The importance of every index of every group: float64 [group.size], higher is more important.

    Scores of ``fisher`` and ``taylor`` are in units of the loss, so they compare across groups; the others are divided by
    their group's mean, so that groups of small numbers are not removed whole.

    Args:
        module: The module, left as it was.
        groups: Its coupled groups.
        how: A key of :data:`CHANNEL_IMPORTANCES`.
        job: Where data and loss come from.
        samples: How many calibration samples are run, where data is.
    """
    return CHANNEL_IMPORTANCES[how](Setting(module, groups, job, samples)) if groups else {}


def collect(member: Member, size: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sum values by position of a member's axis into values by index of its group."""
    total = np.zeros(size)
    for label in member.labels:
        inside = label >= 0
        np.add.at(total, label[inside], values[inside])
    return total


def _by_position(tensor: Tensor, axis: int) -> npt.NDArray[np.float64]:
    others = [place for place in range(tensor.ndim) if place != axis]
    summed = tensor.detach().double()
    found: npt.NDArray[np.float64] = (summed.sum(others) if others else summed).cpu().numpy()
    return found


def magnitudes(tensor: Tensor, axis: int) -> npt.NDArray[np.float64]:
    """The sum of magnitudes at each position of an axis."""
    return _by_position(tensor.abs(), axis)


def _relative(scores: Scores) -> Scores:
    return {group: found / max(float(found.mean()), np.finfo(np.float64).tiny) for group, found in scores.items()}


def _from_weights(setting: Setting, score: Callable[[Tensor], Tensor], root: float) -> Scores:
    """Sum a score of single weights over all members, each member counting alike."""
    scores: Scores = {}
    for group in setting.groups:
        total = np.zeros(group.size)
        for member in group.members:
            if member.trainable:
                values = _by_position(score(edits.value(setting.module, member.tensor)), member.axis)
                collected = collect(member, group.size, values) ** root
                total += collected / max(float(collected.mean()), np.finfo(np.float64).tiny)
        scores[group] = total
    return _relative(scores)


def _batch_norm_scale(setting: Setting) -> Scores:
    """``|scale|`` of the batch-norm layers of the group (Network Slimming, arXiv:1708.06519); L2 where it has none."""
    scales = {
        f"{path}.weight"
        for path, part in setting.module.named_modules()
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and part.affine
    }
    scores = _from_weights(setting, lambda weight: weight.double().square(), 0.5)
    for group in setting.groups:
        found = [member for member in group.members if member.tensor in scales]
        if found:
            scores[group] = np.sum(
                [collect(m, group.size, _by_position(edits.value(setting.module, m.tensor).abs(), m.axis)) for m in found], axis=0
            )
    return _relative(scores)


def _from_gradients(setting: Setting, batch: int) -> Scores:
    """``mean((sum w g)^2)`` over batches: what the loss gains, to second order, when an index is removed.

    ``sum w g`` over everything that goes is the derivative of the loss by a factor on the index. With single samples its
    mean square is the Fisher information of that factor (Liu et al., arXiv:2108.00708); with batches, the squared
    first-order Taylor term (Molchanov et al., arXiv:1906.10771).
    """
    names = sorted({member.tensor for group in setting.groups for member in group.members if member.trainable})
    values = {name: edits.value(setting.module, name).double() for name in names}
    totals: Scores = {group: np.zeros(group.size) for group in setting.groups}
    count = 0
    for found in gradients(setting.module, names, setting.job, batch, setting.samples):
        setting.job.check_time()
        count += 1
        products = {name: values[name] * gradient.double() for name, gradient in found.items()}
        for group in setting.groups:
            moved = [
                collect(member, group.size, _by_position(products[member.tensor], member.axis))
                for member in group.members
                if member.trainable
            ]
            totals[group] += np.sum(moved, axis=0) ** 2
    return {group: total / max(count, 1) for group, total in totals.items()}


def _from_activity(setting: Setting, score: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Scores:
    """Score the mean activity of each index, seen at the layers that read it; L2 of the weights where no layer is known."""
    scores = _from_weights(setting, lambda weight: weight.double().square(), 0.5)
    activity = _mean_activity(setting.module, setting)
    for group in setting.groups:
        found = [
            collect(member, group.size, activity[path])
            for member in group.members
            if member.axis == 1 and (path := member.tensor.rpartition(".")[0]) in activity
            and activity[path].shape == member.labels[0].shape
        ]  # fmt: skip
        if found:
            scores[group] = score(np.sum(found, axis=0))
    return _relative(scores)


def _mean_activity(module: nn.Module, setting: Setting) -> Mapping[str, npt.NDArray[np.float64]]:
    sums: dict[str, Tensor] = {}

    def remember(path: str, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen = arguments[0].detach().abs().double()
            found = seen.movedim(axis, 0).flatten(1).mean(1) * len(seen)
            sums[path] = sums[path] + found if path in sums else found

        return hook

    hooks = [
        part.register_forward_pre_hook(remember(path, -1 if isinstance(part, nn.Linear) else 1))
        for path, part in module.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and getattr(part, "groups", 1) == 1
    ]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            seen = 0
            for inputs, _ in setting.job.data.calibration.batches(32):
                if seen >= setting.samples:
                    break
                seen += len(inputs[0])
                device = next(module.parameters()).device
                module(*(tensor.to(device) for tensor in inputs))
    finally:
        module.train(was_training)
        for registered in hooks:
            registered.remove()
    return {path: total.cpu().numpy() / max(seen, 1) for path, total in sums.items()}


def _output_entropy(activity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``|y log(y / sum y)|`` of mean activities: what a unit's firing tells, as the articles write it.

    >>> _output_entropy(np.array([0.0, 1.0, 1.0])).round(2).tolist()
    [0.0, 0.69, 0.69]
    """
    share = activity / max(float(activity.sum()), np.finfo(np.float64).tiny)
    return activity * -np.log(np.maximum(share, np.finfo(np.float64).tiny))


CHANNEL_IMPORTANCES: dict[str, Callable[[Setting], Scores]] = {
    "l1": lambda setting: _from_weights(setting, lambda weight: weight.double().abs(), 1.0),
    "l2": lambda setting: _from_weights(setting, lambda weight: weight.double().square(), 0.5),
    "batch_norm": _batch_norm_scale,
    "taylor": lambda setting: _from_gradients(setting, 32),
    "fisher": lambda setting: _from_gradients(setting, 1),
    "activity": lambda setting: _from_activity(setting, lambda activity: activity),
    "entropy": lambda setting: _from_activity(setting, _output_entropy),
}
"""By name. ``l1``, ``l2``: norms of all weights that go. ``batch_norm``: scale of the batch norms. ``taylor``, ``fisher``:
what the loss gains, from gradients on calibration data. ``activity``: how strongly the index fires on calibration data.
``entropy``: ``|y log(y / sum y)|`` of those activities."""
