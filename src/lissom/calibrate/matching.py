"""Matching: what stays continuous in a network with levels learns to bring the answers back to the original's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.measure.metrics import as_logits
from lissom.network import flatten_outputs

__all__ = ["divergence", "match_answers"]

EPOCHS = 4
PACE = 5e-4
"""How far a step goes at first, relative to the size of a tensor's values."""

HELD = 5
"""One batch in so many does not teach, but tells whether what was learnt holds."""


def divergence(answer: Tensor, wanted: Tensor, *, classify: bool) -> Tensor:
    """The mean over samples of KL(wanted || answer) of the probabilities where ``classify``, else of 1 - cosine.

    >>> logits = torch.tensor([[2.0, -1.0]])
    >>> divergence(logits, logits + 3, classify=True).abs().item() < 1e-6
    True
    """
    if classify:
        ours, theirs = (as_logits(each).log_softmax(1) for each in (answer, wanted))
        return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1).mean()
    return (1 - F.cosine_similarity(answer.flatten(1), wanted.flatten(1))).mean()


def match_answers(
    module: nn.Module, batches: Sequence[tuple[Tensor, ...]], answers: Sequence[Tensor], *, classify: bool, epochs: int = EPOCHS
) -> float:
    """Train biases, and the gains and offsets of normalisations, in place, to the answers that the original gave.

    These are few beside the weights, so a few hundred samples suffice, no labels are needed, and an archive takes no more
    bytes for them. One batch in five is held out: what its divergence was least with stays, be it nothing learnt.

    Args:
        module: the network with levels; in eval mode, and so it stays.
        batches: inputs of calibration samples, two batches at least.
        answers: the original's first output on each.
        classify: whether that is logits.
        epochs: how often the batches are seen.

    Returns:
        The held-out divergence that is left, over the one before; 1.0 where nothing better was found.
    """
    held = list(range(HELD - 1, len(batches), HELD)) or [len(batches) - 1]
    taught = [number for number in range(len(batches)) if number not in held]
    learning = {name: value for name, value in module.named_parameters() if value.ndim < 2 and value.dtype is torch.float32}
    if not taught or not learning:
        return 1.0
    wanted = {name: value.requires_grad for name, value in module.named_parameters()}
    module.requires_grad_(False)
    groups = []
    for value in learning.values():
        value.requires_grad_(True)
        groups.append({"params": [value], "lr": PACE * max(float(value.detach().square().mean().sqrt()), 1e-2)})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    count = epochs * len(taught)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / count)))

    def loss(number: int) -> Tensor:
        return divergence(flatten_outputs(module(*batches[number]))[0], answers[number], classify=classify)

    @torch.no_grad()
    def left() -> float:
        return sum(float(loss(number)) for number in held)

    first = least = left()
    best = {name: value.detach().clone() for name, value in learning.items()}
    for _ in range(epochs):
        for number in taught:
            with torch.enable_grad():
                error = loss(number)
            optimizer.zero_grad()
            error.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        if (now := left()) < least:
            least, best = now, {name: value.detach().clone() for name, value in learning.items()}
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.requires_grad_(wanted[name])
            if name in best:
                value.copy_(best[name])
    return least / max(first, 1e-30)
