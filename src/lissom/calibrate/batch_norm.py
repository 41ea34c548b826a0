"""Batch-norm recalibration: statistics of what an edited network really computes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["recalibrate_batch_norm"]

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
    layers = [part for part in module.modules() if isinstance(part, BATCH_NORMS) and part.track_running_stats]
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
