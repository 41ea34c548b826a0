"""What every folding of normalisations shares: which part's output goes straight into which, and proof by the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissom.network import flatten_outputs

__all__ = ["Folding", "neighbours", "proved"]

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Folding:
    """One normalisation that became part of a layer.

    Args:
        layer: Path of the layer.
        norm: Path of the normalisation.
        after: Whether it stood after the layer.
        tensors: Names of the layer's tensors that hold other values now.
    """

    layer: str
    norm: str
    after: bool
    tensors: tuple[str, ...] = ("weight", "bias")


def neighbours(module: nn.Module, inputs: tuple[Tensor, ...], parts: Mapping[str, nn.Module]) -> list[tuple[str, str, Tensor]]:
    """Pairs of parts, each called once, where the output of the first is the input of the second, and that tensor.

    Args:
        module: The network; it is run once.
        inputs: Example inputs.
        parts: The parts to look at, by path.
    """
    calls: dict[str, list[tuple[Tensor, int, Tensor, int]]] = {}
    hooks = []

    def watch(name: str) -> Callable[..., None]:
        def see(_part: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            taken = next((each for each in given if isinstance(each, Tensor)), None)
            if taken is not None and isinstance(output, Tensor):
                # The tensors are kept, so that no other can get the same identity; the version tells of in-place changes.
                calls.setdefault(name, []).append((taken, taken._version, output, output._version))  # noqa: SLF001

        return see

    try:
        hooks = [part.register_forward_hook(watch(name)) for name, part in parts.items()]
        _outputs(module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: seen[0] for name, seen in calls.items() if len(seen) == 1}
    outputs = {(id(once[name][2]), once[name][3]): name for name in once}
    found = []
    for name, (taken, version, _, _) in once.items():
        source = outputs.get((id(taken), version))
        if source is not None:
            found.append((source, name, once[source][2]))
    return found


def proved(
    module: nn.Module, inputs: tuple[Tensor, ...], pairs: Sequence[Folding], fold: Callable[[Folding], Callable[[], None]]
) -> list[Folding]:
    """Fold the pairs that leave the network's outputs as they are; those.

    Where the outputs with all pairs folded differ, pairs are tried one by one and those that change an output stay as
    they were.

    Args:
        module: Changed in place.
        inputs: Example inputs.
        pairs: What to fold.
        fold: Folds one pair; gives back how to undo it.
    """
    before = _outputs(module, inputs)
    undo = [fold(pair) for pair in pairs]
    if _equal(before, _outputs(module, inputs)):
        return list(pairs)
    for restore in undo:
        restore()
    done = []
    for pair in pairs:
        restore = fold(pair)
        if _equal(before, _outputs(module, inputs)):
            done.append(pair)
        else:
            restore()
    return done


def _outputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return flatten_outputs(module(*inputs))


def _equal(before: tuple[Tensor, ...], after: tuple[Tensor, ...]) -> bool:
    if len(before) != len(after):
        return False
    return all(
        bool((b.double() - a.double()).abs().max() <= TOLERANCE * b.double().abs().max().clamp(min=1e-30)) if b.numel() else True
        for b, a in zip(before, after, strict=True)
    )
