"""Losses that a graph may hold: negative log-likelihood and cross-entropy of labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.table import operator


@operator("NegativeLogLikelihoodLoss", 12)
def negative_log_likelihood(
    x: Tensor, labels: Tensor, weight: Tensor | None = None, *, ignore_index: int | None = None, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probability of each label, over classes on axis 1."""
    ignored = -100 if ignore_index is None else ignore_index  # torch's own "no label" value
    return F.nll_loss(x, labels.long(), weight, ignore_index=ignored, reduction=reduction)


@operator("SoftmaxCrossEntropyLoss", 12)
def softmax_cross_entropy(
    x: Tensor, labels: Tensor, weight: Tensor | None = None, *, ignore_index: int | None = None, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of scores with labels, and the log-probabilities."""
    scores = F.log_softmax(x, 1)
    return negative_log_likelihood(scores, labels, weight, ignore_index=ignore_index, reduction=reduction), scores
