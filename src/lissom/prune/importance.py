"""Importance: how much a network would miss each of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lissom import edits
from lissom.calibrate.importance import in_a_direction
from lissom.job import Job
from lissom.network import flatten_outputs

__all__ = ["IMPORTANCES", "Importance", "entropy", "gradients", "importance_of"]

BATCH = 32


@dataclass(frozen=True)
class Importance:
    """A way to score weights; higher is more important, never below zero.

    Args:
        score: From a weight and its gradient on one batch (None where none is asked for) to a score of its shape;
            scores of several batches are averaged.
        batch: Samples in a batch; 0 where the weights alone decide and no data is run.
    """

    score: Callable[[Tensor, Tensor], Tensor]
    batch: int = 0


def entropy(weight: Tensor) -> Tensor:
    """What each connection adds to the entropy of its unit: ``|y * log(y / sum y)|``, ``y = softmax(|w|)`` over the unit.

    The articles write ``I = sum_i y_i log(y_i / sum_j y_j)`` over probabilities. It is read so: a unit is one position
    of the first axis; the magnitudes of its connections become probabilities by a softmax; each term of the sum is the
    information that one connection carries, and its absolute value is the importance. The score grows with
    the magnitude until a connection holds 1/e of its unit, and falls beyond: one connection that holds everything
    tells nothing. Units with many connections score lower on each.

    Args:
        weight: float, the unit first; a vector is one unit.

    >>> entropy(torch.tensor([[1.0, 3.0]]).log()).mul(100).round().tolist()  # y = 1/4, 3/4
    [[35.0, 22.0]]
    """
    rows = weight.detach().abs().double().reshape(1 if weight.ndim < 2 else weight.shape[0], -1)
    logarithm = F.log_softmax(rows, 1)
    return (logarithm.exp() * logarithm).abs().to(torch.float32).reshape(weight.shape)


IMPORTANCES: dict[str, Importance] = {
    "magnitude": Importance(lambda weight, _: weight.abs()),
    "gradient": Importance(lambda _, gradient: gradient.abs(), BATCH),
    "taylor": Importance(lambda weight, gradient: (weight * gradient).abs(), BATCH),
    "fisher": Importance(lambda _, gradient: gradient.square(), 1),
    "saliency": Importance(lambda weight, gradient: (weight * gradient).square() / 2, 1),
    "entropy": Importance(lambda weight, _: entropy(weight)),
}
"""By name: ``|w|``; ``|g|``; ``|w g|``, the first-order Taylor term (arXiv:1611.06440); ``g^2`` of single samples, the
diagonal of the empirical Fisher information; ``w^2 g^2 / 2``, the second-order term with that diagonal (LeCun et al.,
Optimal Brain Damage, 1990); and the entropy of the unit's connections."""


def importance_of(module: nn.Module, names: Sequence[str], how: str, job: Job, *, samples: int = 512) -> dict[str, Tensor]:
    """The importance of every weight of the named tensors, float32 of their shapes.

    Args:
        module: The module, left as it was; edited weights are scored by the values that they give.
        names: Tensors, by the user's names.
        how: A key of :data:`IMPORTANCES`.
        job: Its calibration split and its loss give the gradients. Without labels the loss is that of the network's own
            answers: cross-entropy with its top class, or half the square of its outputs.
        samples: How many samples of the calibration split are run.

    """
    chosen = IMPORTANCES[how]
    values = {name: edits.value(module, name) for name in names}
    if chosen.batch == 0:
        return {name: chosen.score(value.float(), torch.empty(0)) for name, value in values.items()}
    scores = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in values.items()}
    count = 0
    for found in gradients(module, names, job, chosen.batch, samples):
        count += 1
        for name, gradient in found.items():
            scores[name] += chosen.score(values[name].float(), gradient.float())
    return {name: score / max(count, 1) for name, score in scores.items()}


def gradients(module: nn.Module, names: Sequence[str], job: Job, batch: int, samples: int) -> Iterator[dict[str, Tensor]]:
    """The gradient of the loss of each batch with respect to the values of the named tensors, summed over aliases.

    Without labels, of a number whose gradient's mean square is the Fisher information of the answers' divergence: the loss by
    the network's own best class would say nothing of what it is sure of.
    """
    tied = edits.aliases(module)
    device = next(module.parameters()).device
    seen, generator = 0, torch.Generator().manual_seed(job.seed)
    with _differentiable(module):
        for inputs, targets in job.data.calibration.batches(batch):
            if seen >= samples:
                return
            seen += len(inputs[0])
            with parametrize.cached():  # the tensors that the module computes with are then the very ones asked about
                places = {(name, alias): edits.live(module, alias) for name in names for alias in tied[name]}
                outputs = flatten_outputs(module(*(tensor.to(device) for tensor in inputs)))
                if targets is None:
                    loss = in_a_direction(outputs[0], job.data.task == "classify", generator)
                else:
                    loss = job.loss(outputs, targets.to(device))
                unique = list({id(value): value for value in places.values()}.values())
                found = torch.autograd.grad(loss, unique, allow_unused=True)
            by_value = {id(value): gradient for value, gradient in zip(unique, found, strict=True)}
            yield {name: _total(name, places, by_value) for name in names}


def _total(name: str, places: dict[tuple[str, str], Tensor], gradients: Mapping[int, Tensor | None]) -> Tensor:
    """The gradients of all aliases of one tensor: one of them where the aliases share a parameter, else their sum."""
    values = {id(value): value for (owner, _), value in places.items() if owner == name}
    total = torch.zeros_like(next(iter(values.values())))
    for identity in values:
        gradient = gradients[identity]
        total = total if gradient is None else total + gradient
    return total


@contextmanager
def _differentiable(module: nn.Module) -> Iterator[None]:
    """Eval mode with a gradient for every floating parameter, and everything as it was afterwards."""
    training = [part for part in module.modules() if part.training]
    frozen = [parameter for parameter in module.parameters() if parameter.is_floating_point() and not parameter.requires_grad]
    module.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for part in training:
            part.training = True
