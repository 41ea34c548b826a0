"""Deployed: an ONNX model that knows, for each of its constants, which parameter it holds and how."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import ModelProto

from lissom import codec, files
from lissom.codec.tensors import Quantized
from lissom.deploy import skeleton

__all__ = ["Binding", "Deployed", "Role"]

Role = Literal["values", "levels", "packed", "scale", "zero_point", "table"]


@dataclass(frozen=True)
class Binding:
    """What one initialiser holds.

    Args:
        initializer: Its name in the model.
        parameter: The user's name of the tensor; for a tensor that deploying made (a folded weight), a name of its own.
        role: The tensor's values, its integer levels (``"packed"``: two to a byte, each with 8 added), or what decodes them.
        permutation: The order in which the tensor's axes stand in the model; empty where it is the user's own.
        axis: For a scale or zero point with one axis: the tensor's axis, in the user's order, that it goes along.
    """

    initializer: str
    parameter: str
    role: Role = "values"
    permutation: tuple[int, ...] = ()
    axis: int | None = None


@dataclass(frozen=True, eq=False)
class Deployed:
    """A network as a file that runs.

    Args:
        model: The ONNX model.
        bindings: What its initialisers hold; those not listed belong to the graph (shapes, steps of activations).
        precision: What the arithmetic is: a value of ``Deploy.precision``.
        notes: What was left alone or decided by measuring, in plain sentences.
        origins: For values of the model, their names in the captured graph, to name where parity is lost.
        choices: What the target's measurements decided (types, ranges), to write into the recipe.
    """

    model: ModelProto
    bindings: tuple[Binding, ...] = ()
    precision: str = "float32"
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The bytes of ``model.onnx``."""
        data: bytes = self.model.SerializeToString(deterministic=True)
        return data

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``model.onnx`` whole or not at all."""
        files.write_bytes(path, self.to_bytes())

    def parts(self) -> tuple[bytes, dict[str, np.ndarray[Any, Any] | Quantized]]:
        """The graph without its weights, and the weights under the user's names."""
        return skeleton.split(self.model, {binding.initializer: binding for binding in self.bindings})

    def archive(self, effort: Literal["fast", "best"] = "best", metadata: Mapping[str, str] | None = None) -> bytes:
        """The bytes of ``model.lissom``: the tensors, coded, and the graph, so that unpacking gives ``model.onnx`` back."""
        network, tensors = self.parts()
        return codec.encode(tensors, network=network, metadata=metadata, effort=effort)
