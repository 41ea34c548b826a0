"""The loss that labels imply."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from lissom.data import Data
from lissom.job import Loss
from lissom.measure.metrics import as_logits

__all__ = ["cross_entropy", "default_loss", "squared_error"]


def cross_entropy(outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
    """Cross-entropy of the first output, logits or probabilities [N, classes, …], with integer labels [N, …]."""
    return F.cross_entropy(as_logits(outputs[0]), targets)


def squared_error(outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
    """Mean squared error of the first output."""
    return F.mse_loss(outputs[0], targets.reshape(outputs[0].shape))


def default_loss(data: Data) -> Loss:
    """Cross-entropy for integer labels, squared error for floating ones (without labels, training only distils)."""
    return cross_entropy if data.task == "classify" else squared_error
