"""Sizes that a file states as numbers (the target of a Reshape, the parts of a Split, the groups of a convolution).

A network that loses channels must change those numbers too. So a call that states sizes is a small module which holds
them as integer attributes, where structure edits look for them and where write-back finds what changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
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
        self._held: dict[int | str, str | list[str]] = {}
        for position, known in inputs.items():
            self._held[position] = self._hold(f"input_{position}", known.list())
        for name, value in attributes.items():
            self._held[name] = self._hold(name, value)
        self._stated = [name for name in self._held if isinstance(name, str)]
        self._before = {key: self._read(key) for key in self._held}
        self._made: dict[int, tuple[list[int], Known]] = {}

    def _hold(self, stem: str, numbers: list[int] | int) -> str | list[str]:
        """Set the attributes of these numbers; their names."""
        if isinstance(numbers, int):
            setattr(self, stem, numbers)
            return stem
        for index, number in enumerate(numbers):
            setattr(self, f"{stem}_{index}", int(number))
        return [f"{stem}_{index}" for index in range(len(numbers))]

    def _read(self, key: int | str) -> Any:
        """What is stated now, by input position or attribute name."""
        names = self._held[key]
        return getattr(self, names) if isinstance(names, str) else [getattr(self, name) for name in names]

    def changed(self) -> Sizes:
        """What is stated now and was not in the file."""
        return {
            key: self._known(key).tensor().numpy() if isinstance(key, int) else value
            for key, before in self._before.items()
            if (value := self._read(key)) != before
        }

    def _known(self, position: int) -> Known:
        numbers = self._read(position)
        made = self._made.get(position)
        if made is None or made[0] != numbers:  # a network runs often, and is edited rarely
            shape, dtype = self._shapes[position]
            made = self._made[position] = (numbers, Known(Known.of(numbers).array.reshape(shape), dtype))
        return made[1]

    def forward(self, *values: Any) -> Any:
        """The call, with the numbers as they are now."""
        stated = list(values)
        for position in self._shapes:
            stated[position] = self._known(position)
        return self.function(*stated, **{name: self._read(name) for name in self._stated})


def changed_sizes(module: nn.Module) -> dict[str, Sizes]:
    """For each call whose sizes were edited, named by its first output: the numbers that differ from the file's."""
    found = ((path, part.changed()) for path, part in module.named_modules() if isinstance(part, SizedCall))
    return {path.rpartition(".")[2]: changes for path, changes in found if changes}
