"""Importance: what an error in each weight costs in the network's answers, from its gradients and its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.network import flatten_outputs

__all__ = ["WIDEST", "Felt", "felt", "in_a_direction"]

WIDEST = 4608
"""Input weights of a unit above which what they have in common is left out: solving with it grows cubically."""

ROWS = 4096
"""Positions of one sample at most whose inputs are summed."""


@dataclass
class Felt:
    """What the answers feel of one weight.

    Args:
        fisher: Mean over samples of the squared gradient of the answers' divergence, for each value.
        moments: Mean products of the inputs that a unit's values meet [width, width]; None where there are none to share
            errors with (groups, embeddings, weights of other modules).
        samples: How many samples both are means of.
        seen: How many of them met each row, where a sample meets few (an embedding's tokens); else None.
        half: ``fisher`` of every second sample alone, which tells how much of it is chance; None of a single sample.
    """

    fisher: Tensor
    moments: Tensor | None = None
    samples: int = 0
    seen: Tensor | None = None
    half: Tensor | None = None


def felt(
    module: nn.Module, samples: Iterable[tuple[Tensor, ...]], *, classify: bool, seed: int = 0, moments: bool = True
) -> dict[str, Felt]:
    """The Fisher information of every parameter of at least two axes, by name.

    The divergence of the answers (KL of the probabilities where ``classify``, else 1 - cosine) is, for small errors, half
    the mean square of a gradient in a random direction: no labels are needed.

    Args:
        module: The network, in eval mode.
        samples: Inputs, best one sample at a time: gradients of a batch add up before they are squared.
        classify: Whether the first output is logits.
        seed: Of the directions.
        moments: Whether the inputs' products are wanted, too.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> felt(layer, [(torch.tensor([[1.0, 0.0]]),)], classify=True)["weight"].fisher[:, 1].tolist()
        [0.0, 0.0, 0.0]
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {name: value for name, value in module.named_parameters() if value.ndim >= 2}
    fisher = {name: torch.zeros(value.shape) for name, value in weights.items()}
    half = {name: torch.zeros(value.shape) for name, value in weights.items()}
    sums: dict[str, Tensor] = {}
    seen = {
        f"{path}.weight" if path else "weight": torch.zeros(part.num_embeddings)
        for path, part in module.named_modules()
        if isinstance(part, nn.Embedding)
    }
    hooks = [
        part.register_forward_pre_hook(partial(_sum_inputs, sums, f"{path}.weight" if path else "weight"))
        for path, part in module.named_modules()
        if moments and isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d) and getattr(part, "groups", 1) == 1
        if part.weight[0].numel() <= WIDEST
    ]
    wanted = {name: value.requires_grad for name, value in module.named_parameters()}
    module.requires_grad_(True)
    count = 0
    try:
        for inputs in samples:
            with torch.enable_grad():
                answer = in_a_direction(flatten_outputs(module(*inputs))[0], classify, generator)
            gradients = torch.autograd.grad(answer, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    (half if count % 2 else fisher)[name] += gradient.detach().square().cpu()
                    if name in seen:
                        seen[name] += (gradient.detach() != 0).any(1).cpu()
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for name, value in module.named_parameters():
            value.requires_grad_(wanted[name])
    means = {name: total / count for name, total in sums.items()}
    return {
        name: Felt(
            (total + half[name]) / max(count, 1),
            means.get(name),
            count,
            seen.get(name),
            half[name] / (count // 2) if count > 1 else None,
        )
        for name, total in fisher.items()
    }


def in_a_direction(output: Tensor, classify: bool, generator: torch.Generator) -> Tensor:
    """A number whose gradient's mean square is the Fisher information of the answers' divergence; no labels are needed.

    Args:
        output: Logits [N, classes, ...] where ``classify``, else any numbers, the sample first.
        classify: Which of the two.
        generator: Of the direction.
    """
    if classify:
        logits = output.movedim(1, -1).reshape(-1, output.shape[1])
        likely = logits.detach().softmax(1)
        drawn = likely.sqrt() * torch.randn(likely.shape, generator=generator).to(likely.device)
        # Its covariance is diag(p) - pp', the second derivative of KL; labels drawn from p have it, too, but rarely show it.
        return (logits * (drawn - likely * drawn.sum(1, keepdim=True))).sum()
    flat = output.flatten(1)
    return (F.normalize(flat, dim=1) * torch.randn(flat.shape, generator=generator).to(flat.device)).sum()


@torch.no_grad()
def _sum_inputs(moments: dict[str, Tensor], name: str, part: Any, arguments: tuple[Tensor, ...]) -> None:
    rows = _inputs(part, arguments[0].detach())
    rows = rows[:: max(1, len(rows) // ROWS)]
    own = (rows.T @ rows / len(rows)).cpu()
    moments[name] = moments[name] + own if name in moments else own


def _inputs(part: Any, arrived: Tensor) -> Tensor:
    """What a unit's values meet at each position: [positions, width]."""
    if isinstance(part, nn.Linear):
        return arrived.flatten(0, -2)
    image = arrived.unsqueeze(-2) if isinstance(part, nn.Conv1d) else arrived
    kernel, dilation, stride = (
        (1, *each) if isinstance(part, nn.Conv1d) else each for each in (part.kernel_size, part.dilation, part.stride)
    )
    return F.unfold(image, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)
