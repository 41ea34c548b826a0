"""Moments: what a layer's inputs and the answers wanted of it have in common, summed over calibration data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.network import Network

__all__ = ["LARGEST", "Moments", "collect", "collect_halves", "run_order", "seen"]

LARGEST = 4608
"""Input weights of a unit (channels x kernel) above which moments are not taken: solving with them grows cubically."""

ROWS_PER_UNKNOWN = 24
"""Positions looked at for each input weight of a unit: enough to be over-determined, few enough to be quick."""


@dataclass(frozen=True)
class Moments:
    """Sums over the positions that a layer sees, all in float64.

    Args:
        square: [width + 1, width + 1]: products of input weights' inputs; the last row and column are of a constant 1.
        mixed: [units, width + 1]: products of the wanted answers with the same.
        count: How many positions were summed.
    """

    square: Tensor
    mixed: Tensor
    count: int

    def __add__(self, other: Moments) -> Moments:
        """Of the positions of both."""
        return Moments(self.square + other.square, self.mixed + other.mixed, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """Mean input: [width]."""
        return self.square[:-1, -1] / self.count

    @property
    def answer(self) -> Tensor:
        """Mean wanted answer: [units]."""
        return self.mixed[:, -1] / self.count

    @property
    def covariance(self) -> Tensor:
        """Covariance of the inputs: [width, width]."""
        return self.square[:-1, :-1] / self.count - torch.outer(self.mean, self.mean)

    @property
    def common(self) -> Tensor:
        """Covariance of wanted answers and inputs: [units, width]."""
        return self.mixed[:, :-1] / self.count - torch.outer(self.answer, self.mean)


class _Reached(Exception):
    """The layer of interest has run."""


def collect(
    module: nn.Module, original: nn.Module, path: str, batches: Sequence[tuple[Tensor, ...]], rows: Tensor | None = None
) -> Moments | None:
    """The moments of the linear or convolutional layer ``path``: of the inputs that it gets in ``module``, and of the
    answers that the same layer gives in ``original``.

    One layer's sums are held at a time, and what comes after the layer is not computed.

    Args:
        module: The network as it is now.
        original: The network whose answers are wanted.
        path: Of a ``Linear``, ``Conv1d`` or ``Conv2d`` in both.
        batches: Inputs of calibration samples.
        rows: Which of the original's units are still there, in order; None for all.

    Returns:
        None where the two give answers of different sizes, or where a unit has more than :data:`LARGEST` input weights.

    Example:
        >>> layer = nn.Sequential(nn.Linear(1, 1))
        >>> collect(layer, layer, "0", [(torch.tensor([[1.0], [3.0]]),)]).mean.item()
        2.0
    """
    found = _sums(module, original, path, batches, rows, parts=1)
    return None if found is None else found[0]


def collect_halves(
    module: nn.Module, original: nn.Module, path: str, batches: Sequence[tuple[Tensor, ...]], rows: Tensor | None = None
) -> tuple[Moments, Moments] | None:
    """The same of the first half of each batch's samples and of the others: what is fitted on one can be told by the other.

    Args and result are those of :func:`collect`, but for the two of them.
    """
    found = _sums(module, original, path, batches, rows, parts=2)
    return None if found is None else (found[0], found[1])


def _sums(
    module: nn.Module,
    original: nn.Module,
    path: str,
    batches: Sequence[tuple[Tensor, ...]],
    rows: Tensor | None,
    *,
    parts: int,
) -> list[Moments] | None:
    """The moments of each part of the samples: every batch is cut into so many."""
    part: Any = module.get_submodule(path)
    width = math.prod(part.weight.shape[1:])
    if width > LARGEST:
        return None
    units = part.weight.shape[0] if rows is None else len(rows)
    wanted = ROWS_PER_UNKNOWN * width // len(batches) + 1
    squares = [torch.zeros(width + 1, width + 1, dtype=torch.float64) for _ in range(parts)]
    mixed = [torch.zeros(units, width + 1, dtype=torch.float64) for _ in range(parts)]
    counts = [0] * parts
    generator = torch.Generator().manual_seed(0)
    for inputs in batches:
        arrived, answered = seen(module, path, inputs)[0], seen(original, path, inputs)[1]
        columns, targets = _columns(part, arrived), _answers(part, answered)
        if columns.shape[0] != targets.shape[0]:
            return None
        chosen = torch.randperm(columns.shape[0], generator=generator)[:wanted]
        places = columns.shape[0] // len(inputs[0])  # of a sample
        cut = -(-len(inputs[0]) // parts) * places
        for number in range(parts):
            some = chosen[chosen // cut == number]
            x = F.pad(columns[some].double().cpu(), (0, 1), value=1.0)
            y = targets[some].double().cpu()
            squares[number] += x.T @ x
            mixed[number] += (y if rows is None else y[:, rows.cpu()]).T @ x
            counts[number] += len(x)
    return [Moments(*sums) for sums in zip(squares, mixed, counts, strict=True)]


def run_order(network: Network, inputs: tuple[Tensor, ...]) -> list[str]:
    """Paths of the linear layers, convolutions and embeddings that run, in the order in which they first do."""
    found: dict[str, None] = {}
    hooks = [
        part.register_forward_hook(lambda *_, path=path: found.setdefault(path))
        for path, part in network.module.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding))
    ]
    try:
        network.outputs(*(tensor[:2] for tensor in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def seen(module: nn.Module, path: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """What goes into the layer ``path`` and what comes out, at its first call."""
    calls: list[tuple[Tensor, Tensor]] = []

    def remember(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((arguments[0], output))
        raise _Reached

    hook = module.get_submodule(path).register_forward_hook(remember)
    try:
        with torch.no_grad():
            module(*inputs)
    except _Reached:
        pass
    finally:
        hook.remove()
    return calls[0]


def _columns(part: Any, arrived: Tensor) -> Tensor:
    """The inputs of each output position: [positions, input weights]."""
    if isinstance(part, nn.Linear):
        return arrived.reshape(-1, arrived.shape[-1])
    one = isinstance(part, nn.Conv1d)
    image = arrived.unsqueeze(2) if one else arrived
    sizes = [(1, *value) if one else value for value in (part.kernel_size, part.dilation, part.stride)]
    padding = (0, *part.padding) if one else part.padding
    patches = F.unfold(image, sizes[0], dilation=sizes[1], padding=padding, stride=sizes[2])
    return patches.transpose(1, 2).flatten(0, 1)


def _answers(part: Any, answered: Tensor) -> Tensor:
    """The answers at each position: [positions, units]."""
    if isinstance(part, nn.Linear):
        return answered.reshape(-1, answered.shape[-1])
    return answered.flatten(2).transpose(1, 2).flatten(0, 1)
