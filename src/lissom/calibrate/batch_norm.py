"""Batch-norm recalibration: statistics of what an edited network really computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissom import edits
from lissom.networks.keras import KerasModule

__all__ = ["recalibrate_batch_norm", "shift_batch_norm"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def recalibrate_batch_norm(module: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> int:
    """Replace the running statistics of every batch-norm layer by the averages over ``batches``, in place.

    After any edit of the weights before it, a batch-norm layer normalises by statistics of activations that are no more;
    this alone often brings back most of what pruning lost, without labels or training (Li et al., EagleEye, arXiv:2007.02491).

    Args:
        module: The edited network; its training mode and everything but the statistics stay as they were.
        batches: Inputs of each batch; 16 samples or more in a batch give steady variances.

    Returns:
        How many layers there are.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> recalibrate_batch_norm(layer, [(torch.tensor([[1.0], [3.0]]),)])
        1
        >>> layer.running_mean.item(), layer.running_var.item()
        (2.0, 2.0)
    """
    if isinstance(module, KerasModule):
        return _recalibrate_keras(module, batches)
    layers = list(_layers(module).values())
    if not layers:
        return 0
    training = {part: part.training for part in module.modules()}
    momenta = [layer.momentum for layer in layers]
    device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average over all batches
        layer.train()
    try:
        with torch.no_grad():
            for inputs in batches:
                module(*(tensor.to(device) for tensor in inputs))
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for part, was_training in training.items():
            part.training = was_training
    return len(layers)


def shift_batch_norm(
    module: nn.Module,
    original: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    kept: Mapping[str, Sequence[int]] | None = None,
) -> int:
    """Set the running statistics to the original's, moved by what the edits since then move them on ``batches``, in place.

    A few calibration batches differ from all the (augmented) data of training, and plain recalibration puts that
    difference into every layer. Here it cancels: a network without edits gets the original's own.

    Args:
        module: The edited network.
        original: The network before the edits.
        batches: Inputs of each batch.
        kept: Of sliced statistics (``"path.running_mean"``), which of the original's positions are left.

    Returns:
        How many layers there are.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> shift_batch_norm(layer, layer, [(torch.tensor([[1.0], [3.0]]),)])
        1
        >>> layer.running_mean.item(), layer.running_var.item()
        (0.0, 1.0)
    """
    layers = _layers(module)
    if isinstance(module, KerasModule) or not layers:
        return recalibrate_batch_norm(module, batches)
    standing, reference = (edits.copy_module(original) for _ in range(2))
    recalibrate_batch_norm(reference, batches)
    recalibrate_batch_norm(module, batches)
    before, on_batches = _layers(standing), _layers(reference)
    for path, layer in layers.items():
        if path not in before:
            continue
        places = list((kept or {}).get(f"{path}.running_mean", range(before[path].num_features)))
        if len(places) == layer.num_features:
            (mean, variance), (mean_here, variance_here) = (_statistics(each[path], places) for each in (before, on_batches))
            layer.running_mean.copy_(mean + (layer.running_mean - mean_here))
            layer.running_var.copy_(variance * (layer.running_var / variance_here.clamp(min=1e-12)))
    return len(layers)


def _layers(module: nn.Module) -> dict[str, Any]:
    """The layers that keep running statistics, by path."""
    return {path: part for path, part in module.named_modules() if isinstance(part, BATCH_NORMS) and part.track_running_stats}


def _statistics(layer: Any, places: list[int]) -> tuple[Tensor, Tensor]:
    """Running mean and variance of some channels."""
    return layer.running_mean[places], layer.running_var[places]


def _recalibrate_keras(module: KerasModule, batches: Iterable[tuple[Tensor, ...]]) -> int:
    """Each layer normalises by the statistics of the batch that it sees, as it does in training; their average stays."""
    layers = [place for place in module.skeleton.places if type(place.operation).__name__ == "BatchNormalization"]
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []

    def watch(path: str, axis: int) -> Callable[..., None]:
        def see(part: Any, given: tuple[Any, ...]) -> None:
            x = next(each for each in given if isinstance(each, Tensor))
            others = [place for place in range(x.ndim) if place != axis % x.ndim]
            mean, variance = x.mean(others), x.var(others, correction=0)
            part.moving_mean.copy_(mean)
            part.moving_variance.copy_(variance)
            before = sums.get(path, (torch.zeros_like(mean), torch.zeros_like(variance)))
            sums[path] = (before[0] + mean, before[1] + variance)

        return see

    device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
    was_training = module.training
    module.eval()
    count = 0
    try:
        parts = {place.path: module.get_submodule(place.path) for place in layers}
        hooks = [parts[place.path].register_forward_pre_hook(watch(place.path, place.operation.axis)) for place in layers]
        with torch.no_grad():
            for inputs in batches:
                module(*(tensor.to(device) for tensor in inputs))
                count += 1
            for path, (mean, variance) in sums.items():
                part: Any = parts[path]
                part.moving_mean.copy_(mean / count)
                part.moving_variance.copy_(variance / count)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    return len(layers)
