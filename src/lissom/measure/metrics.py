"""Metrics: what a network is good for, sample by sample, and the drop from one network to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.data import Data, Split
from lissom.errors import DataRefused, UsageError

__all__ = [
    "MARGIN",
    "Drop",
    "Measured",
    "Metric",
    "accuracy",
    "agreement",
    "are_probabilities",
    "as_logits",
    "as_metric",
    "default_metric",
    "divergence",
    "measure",
    "scores_of",
    "squared_error",
]

Outputs = tuple[Tensor, ...]
Run = Callable[..., Outputs]
"""Anything that takes the input tensors and gives the output tensors: a network, or a file in a runtime."""

MARGIN = 1.645
"""Standard errors that a drop must keep from its limit: the one-sided 95 % bound of the normal distribution."""


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Args:
        name: How it is printed.
        score: From a batch of outputs and targets to one float per sample, shape [N].
        higher_is_better: False for errors.
        unit: ``"share"`` for values in [0, 1], whose drop counts in absolute points; otherwise the drop of an error
            is its relative increase.
        against_original: The targets are the original network's outputs, not labels.
        whole: ``score`` takes all outputs and targets of a split at once and gives one number, shape [1]: a
            correlation, say. Then no standard error is known.

    Example:
        >>> accuracy.score((torch.tensor([[0.1, 0.9], [0.8, 0.2]]),), torch.tensor([1, 1])).tolist()
        [1.0, 0.0]
    """

    name: str
    score: Callable[[Outputs, Any], Tensor]
    higher_is_better: bool = True
    unit: str = "share"
    against_original: bool = False
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one network on one split: the mean, and the value of every sample for paired comparison."""

    metric: Metric
    split: str
    samples: npt.NDArray[np.float64]

    @property
    def value(self) -> float:
        """The mean over the samples."""
        return float(self.samples.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; 0 where there is one sample only."""
        count = len(self.samples)
        return float(self.samples.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0

    def drop_to(self, after: Measured) -> Drop:
        """How much is lost from this network to the other, on the same samples.

        >>> before = Measured(accuracy, "test", np.array([1.0, 1, 1, 0]))
        >>> before.drop_to(Measured(accuracy, "test", np.array([1.0, 1, 0, 0]))).value
        0.25
        """
        change = self.samples - after.samples
        if not self.metric.higher_is_better:
            change = -change
        scale = 1.0 if self.metric.unit == "share" else max(abs(self.value), 1e-12)
        error = float(change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else float("inf")
        hits = bool(np.isin(self.samples, (0.0, 1.0)).all() and np.isin(after.samples, (0.0, 1.0)).all())
        return Drop(float(change.mean()) / scale, error / scale, 1 / len(change) / scale if hits else 0.0)


@dataclass(frozen=True)
class Drop:
    """What was lost, and the paired standard error of that figure.

    Args:
        value: What was lost.
        standard_error: Paired, over the samples.
        step: What one sample more or less makes, where samples are hit or missed; 0 for any other metric.
    """

    value: float
    standard_error: float
    step: float = 0.0

    @property
    def bound(self) -> float:
        """What the drop is below with 95 % confidence; the drop itself where its standard error is not known."""
        return self.value + (MARGIN * self.standard_error if np.isfinite(self.standard_error) else 0.0)

    def undecided(self, limit: float) -> bool:
        """Whether the data is too small to tell the drop from the limit: few samples that all agree are no evidence either.

        >>> Drop(0.0, 0.0, 1 / 12).undecided(0.01), Drop(0.0, 0.0, 1 / 1000).undecided(0.01)
        (True, False)
        """
        return max(self.standard_error, self.step) > limit / 2


def _top(logits: Tensor) -> Tensor:
    """The class of the largest logit; -1 where a logit is NaN, which argmax would take for the largest."""
    return torch.where(logits.isnan().any(1), -1, logits.argmax(1))


def _per_sample(hits: Tensor) -> Tensor:
    return hits.double().reshape(len(hits), -1).mean(1)


def _accuracy(outputs: Outputs, targets: Any) -> Tensor:
    return _per_sample(_top(outputs[0]) == targets)


def _squared_error(outputs: Outputs, targets: Any) -> Tensor:
    return _per_sample((outputs[0].double() - targets.reshape(outputs[0].shape).double()).square())


def _same_top(outputs: Outputs, targets: Any) -> Tensor:
    return _per_sample(_top(outputs[0]) == targets[0].argmax(1))


def _cosine(outputs: Outputs, targets: Any) -> Tensor:
    """The mean over the outputs; one whose first axis is not the batch (a recurrent state) is left out."""
    pairs = [_alike(a, b) for a, b in zip(outputs, targets, strict=True) if len(b) == len(targets[0])]
    return torch.stack(pairs).mean(0)


def _alike(ours: Tensor, theirs: Tensor) -> Tensor:
    a, b = (tensor.double().reshape(len(tensor), -1) for tensor in (ours, theirs))
    if a.shape[1] == 1:  # one number has no direction: its cosine is 1 or -1, whatever was lost
        found = 1 - (a - b).abs() / torch.maximum(a.abs(), b.abs())
        return torch.where(a == b, 1.0, found).squeeze(1)
    return torch.where((a == b).all(1), 1.0, F.cosine_similarity(a, b))  # the cosine of zeros would be 0


accuracy = Metric("accuracy", _accuracy)
squared_error = Metric("squared error", _squared_error, higher_is_better=False, unit="squared")
agreement = Metric("agreement", _same_top, against_original=True)
cosine_agreement = Metric("agreement (cosine)", _cosine, against_original=True)


def default_metric(data: Data) -> Metric:
    """Accuracy for integer labels, squared error for floating targets, agreement with the original for none.

    Agreement is the share of equal top-1 where the outputs are said to be classes (``task="classify"``), else the
    mean cosine between outputs; of an output of one number per sample, ``1 - |a - b| / max(|a|, |b|)``.
    """
    if not data.labelled:
        return agreement if data.task == "classify" else cosine_agreement
    return accuracy if data.task == "classify" else squared_error


def as_metric(given: Metric | Callable[..., Any]) -> Metric:
    """A metric from the user's own callable, ``given(outputs, targets)``: one number, or one per sample; higher is better.

    Args:
        given: Takes the first output and the targets of a whole split, as tensors.

    >>> as_metric(lambda outputs, targets: -(outputs - targets).abs().mean()).whole
    True
    """
    if isinstance(given, Metric):
        return given
    function = given

    def score(outputs: Outputs, targets: Any) -> Tensor:
        return torch.as_tensor(function(outputs[0], targets), dtype=torch.float64).reshape(-1)

    return Metric(getattr(given, "__name__", "metric").strip("<>"), score, unit="score", whole=True)


def scores_of(outputs: Sequence[Outputs], targets: Sequence[Any], metric: Metric, split: str) -> Measured:
    """The metric of outputs that are at hand, batch by batch, with the targets of each batch."""
    if metric.whole:
        joined = tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
        known = None if targets[0] is None else torch.cat(list(targets)) if isinstance(targets[0], Tensor) else targets
        values = metric.score(joined, known)
    else:
        scores = [metric.score(ours, theirs) for ours, theirs in zip(outputs, targets, strict=True)]
        for found, ours in zip(scores, outputs, strict=True):
            if found.shape != (len(ours[0]),):
                raise UsageError(
                    f"the metric {metric.name} gives shape {list(found.shape)} for {len(ours[0])} samples: give one number for "
                    "each sample, or say that it takes the whole split (whole=True)"
                )
        values = torch.cat(scores)
    samples = values.detach().cpu().double().numpy()
    if not np.isfinite(samples).all():
        raise DataRefused(
            f"the {metric.name} of {int((~np.isfinite(samples)).sum())} samples is NaN or infinite: look at the outputs"
        )
    return Measured(metric, split, samples)


def divergence(outputs: Outputs, reference: Outputs, task: str) -> Tensor:
    """How far outputs are from the original's, per sample, 0 or more: KL(original || outputs) of classes, else 1 - cosine.

    Outputs that are probabilities already, as the original's show, are taken as they are; others as logits.
    """
    if task != "classify":
        return (1 - _cosine(outputs, reference)).clamp(min=0)
    theirs, ours = (found[0].double().reshape(*found[0].shape[:2], -1) for found in (reference, outputs))
    if are_probabilities(theirs):
        q, p = (probabilities.clamp(min=1e-12).log() for probabilities in (ours, theirs))
    else:
        q, p = F.log_softmax(ours, 1), F.log_softmax(theirs, 1)
    return (p.exp() * (p - q)).sum((1, 2)).clamp(min=0)


def are_probabilities(scores: Tensor) -> bool:
    """Whether scores [N, classes, …] are probabilities, as a network that ends in a softmax gives them, and no logits.

    >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[0.25, 2.75]]))
    (True, False)
    """
    total = scores.sum(1)
    return scores.shape[1] > 1 and bool((scores >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-3)


def as_logits(scores: Tensor) -> Tensor:
    """Scores whose softmax the probabilities are, where ``scores`` [N, classes, …] are probabilities; else themselves.

    Losses take logits; a second softmax over probabilities would leave them almost no gradient.
    """
    return scores.clamp(min=1e-9).log() if are_probabilities(scores.detach()) else scores


def measure(run: Run, split: Split, metric: Metric, *, original: Run | None = None, batch_size: int = 250) -> Measured:
    """The metric of ``run`` on ``split``, in batches.

    Args:
        run: What is measured.
        split: The samples.
        metric: What to measure; where it is against the original, ``original`` gives the targets.
        original: The network that the user brought.
        batch_size: Samples at a time.
    """
    if metric.against_original and original is None:
        raise UsageError(f"the metric {metric.name} compares with the original network: give it, or labels")
    outputs, expected = [], []
    for inputs, targets in split.batches(batch_size):
        outputs.append(run(*inputs))
        expected.append(original(*inputs) if original is not None and metric.against_original else targets)
    return scores_of(outputs, expected, metric, split.name)
