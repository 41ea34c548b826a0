"""Distillation: a network learns the outputs of another (Hinton et al., arXiv:1503.02531)."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from lissom.job import value_class
from lissom.measure.metrics import as_logits

__all__ = ["Distill"]


@value_class
class Distill:
    """How much, and how softly, training imitates the teacher.

    For classes the loss is ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``; for any other output it is the
    squared error over the teacher's mean square, so that outputs of any scale weigh alike.

    Args:
        temperature: T above; higher shows more of what the teacher thinks of the wrong classes.
        weight: Share of the loss that is distillation, 0 to 1; the rest is the loss by labels. Without labels the
            share is 1 whatever stands here.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, -1.0]])
        >>> Distill().loss((logits,), (logits,), classes=True).item()
        0.0
    """

    temperature: Annotated[float, Gt(0)] = 2.0
    weight: Annotated[float, Ge(0), Le(1)] = 0.5

    def loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], *, classes: bool) -> Tensor:
        """The distillation loss of a batch, a scalar."""
        if classes:
            soft, target = (F.log_softmax(as_logits(outputs[0]) / self.temperature, 1) for outputs in (student, teacher))
            per_sample = F.kl_div(soft, target, reduction="none", log_target=True).sum(1)
            return per_sample.mean() * self.temperature**2
        errors = [F.mse_loss(a, b) / b.square().mean().clamp_min(1e-12) for a, b in zip(student, teacher, strict=True)]
        return sum(errors[1:], errors[0]) / len(errors)
