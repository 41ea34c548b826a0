"""Sizes that a file states as numbers (the target of a Reshape, the parts of a Split, the groups of a convolution).

A network that loses channels must change those numbers too. So a call that states sizes is a small module which holds
them as integer attributes, where structure edits look for them and where write-back finds what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from lissom.networks.onnx.values import Known

__all__ = ["SIZED_ATTRIBUTES", "SIZED_INPUTS", "SizedCall", "Sizes", "changed_sizes"]

Sizes = Mapping[int | str, npt.NDArray[Any] | list[int] | int]
"""Numbers that a call states: by input position, an array of the shape and type that the file has; by attribute."""

SIZED_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Concat": tuple(range(16)), "ConstantOfShape": (0,), "Expand": (1,), "Reshape": (1,), "Slice": (1, 2), "Split": (1,),
    "Tile": (1,),
}  # fmt: skip
"""By operator, the inputs that state sizes; a Concat does where it puts a shape together."""

SIZED_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "Attention": ("q_num_heads", "kv_num_heads"), "Conv": ("group",), "ConvTranspose": ("group",), "Split": ("split",),
    "GroupNormalization": ("num_groups",), "Slice": ("starts", "ends"),
}  # fmt: skip


class SizedCall(nn.Module):
    """A call with its sizes as integer attributes: ``input_1_0`` for the first number of input 1, ``group``, ``split_2``.

    Args:
        function: The bound call; attributes that state sizes are left out of it.
        inputs: The numbers of known inputs, by position.
        attributes: The numbers of attributes, by name.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Mapping[int, Known], attributes: Mapping[str, int | list[int]]
    ) -> None:
        super().__init__()
        self.function = function
        self._shapes = {position: (known.array.shape, known.dtype) for position, known in inputs.items()}
        self._counts = {name: None if isinstance(value, int) else len(value) for name, value in attributes.items()}
        for position, known in inputs.items():
            self._hold(f"input_{position}", known.list())
        for name, value in attributes.items():
            if isinstance(value, int):
                setattr(self, name, value)
            else:
                self._hold(name, value)
        self._before = self.numbers()

    def _hold(self, stem: str, numbers: list[int]) -> None:
        for index, number in enumerate(numbers):
            setattr(self, f"{stem}_{index}", int(number))

    def _read(self, stem: str, count: int) -> list[int]:
        return [getattr(self, f"{stem}_{index}") for index in range(count)]

    def numbers(self) -> dict[int | str, list[int] | int]:
        """What is stated now, by input position or attribute name."""
        found: dict[int | str, list[int] | int] = {}
        for position, (shape, _) in self._shapes.items():
            found[position] = self._read(f"input_{position}", int(torch.Size(shape).numel()))
        for name, count in self._counts.items():
            found[name] = getattr(self, name) if count is None else self._read(name, count)
        return found

    def changed(self) -> Sizes:
        """What is stated now and was not in the file."""
        return {
            key: self._known(key).tensor().numpy() if isinstance(key, int) else value
            for key, value in self.numbers().items()
            if value != self._before[key]
        }

    def _known(self, position: int) -> Known:
        shape, dtype = self._shapes[position]
        numbers = self._read(f"input_{position}", int(torch.Size(shape).numel()))
        return Known(Known.of(numbers).array.reshape(shape), dtype)

    def forward(self, *values: Any) -> Any:
        """The call, with the numbers as they are now."""
        stated = list(values)
        for position in self._shapes:
            stated[position] = self._known(position)
        if not self._counts:
            return self.function(*stated)
        return self.function(*stated, **{name: value for name, value in self.numbers().items() if isinstance(name, str)})


def changed_sizes(module: nn.Module) -> dict[str, Sizes]:
    """For each call whose sizes were edited, named by its first output: the numbers that differ from the file's."""
    found = ((path, part.changed()) for path, part in module.named_modules() if isinstance(part, SizedCall))
    return {path.rpartition(".")[2]: changes for path, changes in found if changes}
