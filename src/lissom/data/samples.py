"""Samples: what can be fetched by number, from arrays or from a torch Dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.errors import DataRefused
from lissom.network import Preprocess

__all__ = ["TARGET_NAMES", "Arrays", "Batch", "Items", "Samples", "as_array", "as_batch", "as_tensor"]

Batch = tuple[tuple[Tensor, ...], Tensor | None]
"""The inputs of some samples, and their targets (None where there are no labels)."""

TARGET_NAMES = ("y", "label", "labels", "target", "targets")
"""What the target is called in a batch or a set of arrays that has names."""


@runtime_checkable
class Samples(Protocol):
    """Samples that can be fetched by number."""

    def __len__(self) -> int:
        """How many samples there are."""

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The inputs of these samples, stacked, and their targets."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples held in arrays.

    Args:
        inputs: One array per input of the network, the sample first.
        targets: Integer labels or floating targets, the sample first; None where there are none.
        preprocess: Applied to uint8 images when they are fetched.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    targets: npt.NDArray[Any] | None = None
    preprocess: Preprocess | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The inputs of these samples, preprocessed, and their targets."""
        chosen = np.asarray(numbers, np.int64)
        picked = tuple(as_tensor(array[chosen], self.preprocess) for array in self.inputs)
        return picked, None if self.targets is None else as_tensor(self.targets[chosen])


@dataclass(frozen=True, eq=False)
class Items:
    """A map-style torch Dataset whose items are inputs, or inputs and one target, or a mapping of them.

    Args:
        dataset: Anything with ``len()`` and items by number.
        names: The names of the network's inputs, by which a mapping's values are picked.
        collate: From a list of items to a batch.
        preprocess: Applied to uint8 images when they are fetched.
    """

    dataset: Any
    names: tuple[str, ...]
    collate: Any
    preprocess: Preprocess | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """These items, collated."""
        return as_batch(self.collate([self.dataset[int(number)] for number in numbers]), self.names, self.preprocess)


def as_batch(batch: Any, names: tuple[str, ...], preprocess: Preprocess | None = None) -> Batch:
    """A batch in whatever form a loader gives it: one tensor, inputs in order with or without a target, or a mapping.

    Args:
        batch: The batch.
        names: The names of the network's inputs.
        preprocess: Applied to uint8 images.

    Raises:
        DataRefused: it holds too few or too many tensors, or lacks a named input.

    >>> inputs, target = as_batch({"label": torch.tensor([1]), "ids": torch.tensor([[3, 4]])}, ("ids",))
    >>> inputs[0].tolist(), target.tolist()
    ([[3, 4]], [1])
    """
    if isinstance(batch, Mapping):
        missing = [name for name in names if name not in batch]
        if missing:
            raise DataRefused(
                f"a batch holds {', '.join(map(str, batch))} and lacks {', '.join(missing)}: "
                "name its values after the network's inputs"
            )
        target = next((batch[name] for name in TARGET_NAMES if name in batch and name not in names), None)
        parts = [*(batch[name] for name in names), *([] if target is None else [target])]
    else:
        parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if len(parts) not in (len(names), len(names) + 1):
        raise DataRefused(
            f"a batch holds {len(parts)} tensors; the network takes {len(names)} inputs ({', '.join(names)}): "
            "give them, or them and one target"
        )
    inputs = tuple(as_tensor(as_array(part), preprocess) for part in parts[: len(names)])
    return inputs, as_tensor(as_array(parts[-1])) if len(parts) > len(names) else None


def as_array(value: Any) -> npt.NDArray[Any]:
    """A tensor, an array or nested lists of numbers as an array."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataRefused(f"a {type(value).__name__} of unequal lengths where an array was expected: pad the samples") from error


def as_tensor(array: npt.NDArray[Any], preprocess: Preprocess | None = None) -> Tensor:
    """float32 for floating arrays, int64 for integers, bool as it is; uint8 images go through the preprocess, if any.

    Raises:
        DataRefused: the array holds no numbers.
    """
    if array.dtype == np.uint8 and preprocess is not None and array.ndim >= 3:
        return torch.from_numpy(preprocess(array))
    for kind, dtype in ((np.floating, np.float32), (np.bool_, np.bool_), (np.integer, np.int64)):
        if np.issubdtype(array.dtype, kind):
            return torch.from_numpy(np.ascontiguousarray(array, dtype))
    raise DataRefused(f"an array of dtype {array.dtype}: give floats, integers or booleans")
