"""Optimizers' updates that a training graph holds (``ai.onnx.preview.training``): a step from weights, gradients and state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lissom.networks.onnx.table import operator

TRAINING = "ai.onnx.preview.training"


def _columns(tensors: Sequence[Tensor], kinds: int) -> list[tuple[Tensor, ...]]:
    """For each weight: itself, its gradient and its state, which the node lists kind by kind."""
    count = len(tensors) // kinds
    return [tuple(tensors[kind * count + number] for kind in range(kinds)) for number in range(count)]


def _rows(columns: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results kind by kind, as the node gives them back."""
    return tuple(tensor for kind in zip(*columns, strict=True) for tensor in kind)


@operator("Adagrad", 1, domain=TRAINING)
def adagrad(
    rate: Tensor,
    step: Tensor,
    *tensors: Tensor,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> tuple[Tensor, ...]:
    """Steps divided by the root of all squared gradients so far."""
    slowed = rate / (1 + step * decay_factor)
    found = []
    for weight, gradient, squares in _columns(tensors, 3):
        regularised = norm_coefficient * weight + gradient
        total = squares + regularised.square()
        found.append((weight - slowed * regularised / (total.sqrt() + epsilon), total))
    return _rows(found)


@operator("Adam", 1, domain=TRAINING)
def adam(
    rate: Tensor,
    step: Tensor,
    *tensors: Tensor,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> tuple[Tensor, ...]:
    """Steps by running means of the gradient and of its square."""
    corrected = torch.where(step > 0, rate * (1 - beta**step).sqrt() / (1 - alpha**step), rate)
    found = []
    for weight, gradient, mean, squares in _columns(tensors, 4):
        regularised = norm_coefficient * weight + gradient
        mean_now = alpha * mean + (1 - alpha) * regularised
        squares_now = beta * squares + (1 - beta) * regularised.square()
        moved = weight - corrected * mean_now / (squares_now.sqrt() + epsilon)
        found.append(((1 - norm_coefficient_post) * moved, mean_now, squares_now))
    return _rows(found)


@operator("Momentum", 1, domain=TRAINING)
def momentum(
    rate: Tensor, step: Tensor, *tensors: Tensor, alpha: float, beta: float, mode: str, norm_coefficient: float
) -> tuple[Tensor, ...]:
    """Steps by a decaying sum of gradients; ``nesterov`` looks one step ahead."""
    found = []
    for weight, gradient, speed in _columns(tensors, 3):
        regularised = norm_coefficient * weight + gradient
        now = alpha * speed + torch.where(step > 0, beta, 1.0) * regularised
        found.append((weight - rate * (regularised + alpha * now if mode == "nesterov" else now), now))
    return _rows(found)
