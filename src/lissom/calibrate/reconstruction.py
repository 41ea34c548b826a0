"""Reconstruction: refit each layer of a pruned network to what the original computed there, by least squares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom import edits
from lissom.network import Network, Slice

__all__ = ["reconstruct"]

ROWS_PER_UNKNOWN = 24
"""Positions looked at for each input weight of a unit: enough to be over-determined, few enough to be quick."""

LARGEST = 4608
"""Input weights of a unit (channels x kernel) above which a layer is left alone: its normal equations grow cubically."""

RIDGE = 1e-3
"""Pull towards the weights that stand, relative to the mean square of the inputs."""


class _Reached(Exception):
    """The layer of interest has run."""


@dataclass
class _Layer:
    """A layer to refit: its path, and the rows of the original's output that it still gives."""

    path: str
    rows: Tensor


def reconstruct(pruned: Network, original: Network, batches: Sequence[tuple[Tensor, ...]]) -> tuple[str, ...]:
    """Refit the linear and convolutional layers of ``pruned.module`` in place, in the order in which they run.

    Each layer's weights become those that, on the inputs that the pruned network really gives it, come closest to the
    outputs that the original gave (He et al., arXiv:1707.06168); so each layer also mends what the layers before it lost.
    No labels and no gradients are needed. Layers that carry value edits, share their weights or are grouped stay as they are.

    Args:
        pruned: A network that :mod:`lissom.graph.slicing` made from ``original``.
        original: The network before pruning.
        batches: Inputs of calibration samples; a few hundred samples are enough.

    Returns:
        Paths of the layers that were refitted.
    """
    kept = _kept_rows(original, pruned)
    layers = _layers(pruned.module, kept, _order(pruned, batches[0]))
    was_training = pruned.module.training
    pruned.module.eval()
    try:
        with torch.no_grad():
            done = [layer.path for layer in layers if _refit(layer, pruned.module, original.module, batches)]
    finally:
        pruned.module.train(was_training)
    return tuple(done)


def _kept_rows(original: Network, pruned: Network) -> dict[str, tuple[int, ...]]:
    """For each weight whose first axis was sliced since ``original``: the rows of the original that are left, in order."""
    rows: dict[str, tuple[int, ...]] = {}
    for edit in pruned.slices[len(original.slices) :]:
        if isinstance(edit, Slice) and edit.axis == 0:
            before = rows.get(edit.tensor)
            rows[edit.tensor] = edit.kept if before is None else tuple(before[place] for place in edit.kept)
    return rows


def _order(network: Network, inputs: tuple[Tensor, ...]) -> list[str]:
    """Paths of the layers that run, in the order in which they first do."""
    found: dict[str, None] = {}
    hooks = [
        part.register_forward_hook(lambda *_, path=path: found.setdefault(path))
        for path, part in network.module.named_modules()
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    try:
        network.outputs(*(tensor[:2] for tensor in inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def _layers(module: nn.Module, kept: Mapping[str, tuple[int, ...]], order: Sequence[str]) -> list[_Layer]:
    tied = edits.aliases(module)
    layers = []
    for path in order:
        part, name = module.get_submodule(path), f"{path}.weight" if path else "weight"
        if name not in tied or len(tied[name]) > 1 or edits.edit_of(module, name) is not None:
            continue
        weight = part.weight
        plain = isinstance(part, nn.Linear) or (part.groups == 1 and part.padding_mode == "zeros" and part.padding != "same")
        if isinstance(weight, Tensor) and plain and math.prod(weight.shape[1:]) <= LARGEST:
            rows = kept.get(name, tuple(range(weight.shape[0])))
            layers.append(_Layer(path, torch.tensor(rows, device=weight.device)))
    return layers


def _refit(layer: _Layer, pruned: nn.Module, original: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> bool:
    """Solve ``min |Y - W X|^2 + ridge |W - W0|^2`` from sums over all batches; False where there is nothing to gain."""
    part: Any = pruned.get_submodule(layer.path)
    width = math.prod(part.weight.shape[1:])
    bias = part.bias is not None
    wanted = ROWS_PER_UNKNOWN * width // len(batches) + 1
    square = torch.zeros(width + bias, width + bias, dtype=torch.float64)
    mixed = torch.zeros(part.weight.shape[0], width + bias, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for inputs in batches:
        arrived = _seen(pruned, layer.path, inputs)[0]
        answered = _seen(original, layer.path, inputs)[1]
        columns = _columns(part, arrived)
        targets = _rows(part, answered, layer.rows)
        if columns.shape[0] != targets.shape[0]:
            return False
        chosen = torch.randperm(columns.shape[0], generator=generator)[:wanted]
        x = columns[chosen].double()
        if bias:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        square += x.T @ x
        mixed += targets[chosen].double().T @ x
    standing = part.weight.detach().flatten(1).double()
    if bias:
        standing = torch.cat([standing, part.bias.detach().double()[:, None]], 1)
    ridge = RIDGE * square.diagonal().mean().clamp(min=1e-12)
    change = torch.linalg.solve(square + ridge * torch.eye(len(square), dtype=square.dtype), (mixed - standing @ square).T).T
    if not bool(torch.isfinite(change).all()):
        return False
    fitted = (standing + change).to(part.weight.dtype)
    part.weight.copy_(fitted[:, :width].reshape(part.weight.shape))
    if bias:
        part.bias.copy_(fitted[:, width])
    return True


def _seen(module: nn.Module, path: str, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """What goes into the layer ``path`` and what comes out, at its first call; what comes after is not computed."""
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((arguments[0], output))
        raise _Reached

    hook = module.get_submodule(path).register_forward_hook(remember)
    try:
        module(*inputs)
    except _Reached:
        pass
    finally:
        hook.remove()
    return seen[0]


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


def _rows(part: Any, answered: Tensor, rows: Tensor) -> Tensor:
    """The original's outputs at the units that are left: [positions, units]."""
    if isinstance(part, nn.Linear):
        return answered.reshape(-1, answered.shape[-1])[:, rows]
    return answered.flatten(2).transpose(1, 2).flatten(0, 1)[:, rows]
