"""Batch-norm folding on the module: a normalisation beside a convolution or linear layer becomes part of its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from lissom.deploy.fold_keras import fold_keras
from lissom.deploy.folding import Folding, neighbours, proved
from lissom.edits import aliases
from lissom.networks.keras import KerasModule

__all__ = ["Folding", "fold_batch_norm"]

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(module: nn.Module, inputs: tuple[Tensor, ...], keep: Collection[str] = ()) -> list[Folding]:
    """Fold every batch-norm that can be folded exactly, in place; what was folded.

    In eval mode a batch-norm is ``a * x + b`` per channel. After a layer it scales the layer's outputs; before one,
    its inputs, which is exact only where no zero padding stands between (a padded zero is not ``b``). Pairs are found
    by running the module and seeing which tensor goes where, and are proved by its outputs: where the outputs with
    all pairs folded differ, pairs are tried one by one and those that change an output stay as they were.

    Args:
        module: Changed in place; its edits are baked already.
        inputs: Example inputs.
        keep: Names of weights that must keep their values, because they take them from a grid.
    """
    if isinstance(module, KerasModule):
        return fold_keras(module, inputs, keep)
    pairs = [pair for pair in _adjacent(module, inputs) if f"{pair.layer}.weight".lstrip(".") not in keep]
    return proved(module, inputs, pairs, lambda pair: _fold(module, pair))


def _adjacent(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Folding]:
    """The pairs whose tensor goes straight from one to the other, each module called once and its weight its own."""
    parts = {name: part for name, part in module.named_modules() if isinstance(part, LAYERS + NORMS)}
    tied = aliases(module)
    layers = {name for name in parts if isinstance(parts[name], LAYERS) and len(tied.get(_join(name, "weight"), ())) == 1}
    norms = {name for name, part in parts.items() if isinstance(part, NORMS) and part.running_mean is not None}
    taken: set[str] = set()
    pairs: list[Folding] = []
    for source, name, output in neighbours(module, inputs, parts):
        if name in taken or source in taken:
            continue
        if name in norms and source in layers and _after_is_exact(parts[source], output):
            pairs.append(Folding(source, name, after=True))
        elif name in layers and source in norms and _before_is_exact(parts[name], parts[source], output):
            pairs.append(Folding(name, source, after=False))
        else:
            continue
        taken |= {name, source}
    return pairs


def _after_is_exact(layer: nn.Module, output: Tensor) -> bool:
    return not isinstance(layer, nn.Linear) or output.ndim == 2  # the channels of [N, C, L] are not a linear layer's features


def _before_is_exact(layer: nn.Module, norm: nn.Module, output: Tensor) -> bool:
    if isinstance(layer, nn.Linear):
        return output.ndim == 2
    _, shift = _scale_and_shift(norm)
    if not bool(shift.any()):
        return True
    # Each output of a transposed convolution sums another set of taps, and a padded position has no shift.
    return not isinstance(layer, TRANSPOSED) and not isinstance(layer.padding, str) and not any(layer.padding)  # type: ignore[arg-type]


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` of ``a * x + b``, in float64."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def _fold(module: nn.Module, pair: Folding) -> Callable[[], None]:
    """Fold one pair; how to undo it."""
    layer: Any = module.get_submodule(pair.layer)
    norm = module.get_submodule(pair.norm)
    weight, bias = layer.weight, layer.bias
    scale, shift = _scale_and_shift(norm)
    new_weight, new_bias = (_folded_after if pair.after else _folded_before)(layer, scale, shift)
    layer.weight = nn.Parameter(new_weight.to(weight.dtype), requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(new_bias.to(weight.dtype), requires_grad=weight.requires_grad)
    _set(module, pair.norm, nn.Identity())

    def undo() -> None:
        layer.weight, layer.bias = weight, bias
        _set(module, pair.norm, norm)

    return undo


def _folded_after(layer: Any, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    if isinstance(layer, TRANSPOSED):  # [in, out / groups, ...]: the inputs of a group stand together
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        factors = scale.reshape(layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        return (grouped * factors).flatten(0, 1), bias * scale + shift
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), bias * scale + shift


def _folded_before(layer: Any, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    weight: Tensor = layer.weight.detach().double()
    bias: Tensor | None = layer.bias
    added: Tensor
    if isinstance(layer, nn.Linear):
        added = weight @ shift
        new = weight * scale
    elif isinstance(layer, TRANSPOSED):  # only where every shift is zero
        added = torch.zeros(layer.out_channels, dtype=torch.float64)
        new = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    else:  # [out, in / groups, ...]: the outputs of a group stand together
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        shape = (layer.groups, 1, -1, *[1] * (weight.ndim - 2))
        new = (grouped * scale.reshape(shape)).flatten(0, 1)
        axes = tuple(range(2, grouped.ndim))
        added = (grouped * shift.reshape(shape)).sum(axes).flatten()
    return new, added if bias is None else bias.detach().double() + added


def _set(module: nn.Module, name: str, part: nn.Module) -> None:
    path, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(path), attribute, part)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
