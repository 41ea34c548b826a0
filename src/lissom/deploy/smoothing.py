"""Smoothing: what a matrix product reads is divided, channel by channel, so that one step per tensor fits all of its channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from lissom.calibrate.ranges import observe
from lissom.codec.tensors import Quantized
from lissom.deploy.editing import Editor, make_node
from lissom.deploy.operators import OPERATORS, weight_axis
from lissom.errors import DataRefused

__all__ = ["Channels", "smooth"]

Array = npt.NDArray[Any]
PRODUCTS = ("MatMul", "Gemm")
STRENGTHS = tuple(number / 20 for number in range(21))
"""Exponents that are tried, from the weights' difficulty alone to the activations' alone."""


class Channels:
    """The ends and the mean square of each channel (the last axis) over all that was seen.

    Example:
        >>> seen = Channels()
        >>> seen.update(np.array([[1.0, -3.0]], np.float32)); seen.update(np.array([[2.0, 0.0]], np.float32))
        >>> seen.low.tolist(), seen.high.tolist(), seen.mean_square.tolist()
        ([0.0, -3.0], [2.0, 0.0], [2.5, 4.5])
    """

    def __init__(self) -> None:
        self.low: Array = np.zeros(1)
        self.high: Array = np.zeros(1)
        self._squares: Array = np.zeros(1)
        self._count = 0

    def update(self, values: Array) -> None:
        """Take these values in; zero always lies between the ends.

        Raises:
            DataRefused: one of them is NaN or infinite.
        """
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self.low, self.high = np.minimum(self.low, rows.min(0, initial=0)), np.maximum(self.high, rows.max(0, initial=0))
        self._squares, self._count = self._squares + np.square(rows).sum(0), self._count + len(rows)
        if not np.isfinite(self._squares).all():
            raise DataRefused("the network gives NaN or infinity on the calibration data: leave such samples out")

    @property
    def mean_square(self) -> Array:
        """Of each channel."""
        return self._squares / max(self._count, 1)


def smooth(
    editor: Editor, held: Mapping[str, Quantized], batches: Iterable[Sequence[Array]], *, bits: int = 8, samples: int
) -> dict[str, tuple[str, int]]:
    """Move factors from activations into the weights that multiply them; the float graph answers as before.

    A few channels of a transformer are many times as large as the others, and one step for all of them leaves these a few
    levels each. Channel j is divided by ``max|x_j|^a / max|w_j|^(1 - a)`` and the weights that read it are multiplied by it
    (SmoothQuant, Xiao et al., arXiv:2211.10438). For each value, ``a`` is the one whose rounding noise, of activations and
    weights together, is predicted to be the least in the products. Where a layer normalisation gives the value to these
    products alone, its gain and offset take the factor up; elsewhere a Mul does, which costs little beside the products.

    Args:
        editor: The float graph, changed in place; weights that carry a factor have ``smoothed`` in their names.
        held: Weights with levels: what they multiply stays as it is.
        batches: Calibration inputs.
        bits: Of weights.
        samples: How many calibration samples are used at most.

    Returns:
        For each weight behind a Mul, by its new name, the constant of that Mul, and the axis that it goes along.
    """
    users = editor.users()
    products = {value: found for value in users if (found := _products(editor, value, users, held))}
    if not products:
        return {}
    seen = observe(editor.open(products), list(products), batches, samples=samples, kind=Channels)
    carried: dict[str, tuple[str, int]] = {}
    for value, nodes in products.items():
        factor = _factor(seen[value], np.concatenate([_by_input(editor, node) for node in nodes], 1), bits)
        reciprocal = None if _normalisation_takes(editor, value, nodes, users, factor) else _divide(editor, value, nodes, factor)
        for node in {node.input[1]: node for node in nodes}.values():
            weight, axis = node.input[1], 1 - weight_axis(node)
            editor.constants[weight] = (editor.constants[weight] * np.expand_dims(factor, 1 - axis)).astype(np.float32)
            owner, _, attribute = weight.rpartition(".")
            name = editor.fresh(f"{owner}.smoothed.{attribute}".lstrip("."))
            editor.rename_constant(weight, name)
            if reciprocal is not None:
                carried[name] = (reciprocal, axis)
    return carried


def _products(editor: Editor, value: str, users: Mapping[str, list[NodeProto]], held: Mapping[str, Quantized]) -> list[NodeProto]:
    """The products with trained weights that read a value, where all their weights may carry its factor."""
    nodes = [
        node
        for node in users[value]
        if node.op_type in PRODUCTS and node.input[0] == value and OPERATORS[node.op_type].takes(editor, node, set())
    ]
    free = all(node.input[1] not in held and all(user in nodes for user in users[node.input[1]]) for node in nodes)
    return nodes if free else []


def _by_input(editor: Editor, node: NodeProto) -> Array:
    """A product's weight, float64, its inputs first."""
    weight = editor.constants[node.input[1]].astype(np.float64)
    return weight if weight_axis(node) == 1 else weight.T


def _factor(seen: Channels, weight: Array, bits: int) -> Array:
    """What each channel is divided by. Channels that are never on, or never read, stay as they are."""
    peaks, rows = np.maximum(seen.high, -seen.low), np.abs(weight).max(1)
    live = (peaks > 0) & (rows > 0)
    peaks, rows = np.where(live, peaks, 1.0), np.where(live, rows, 1.0)
    tried = [np.ones(len(peaks)), *(peaks**a / rows ** (1 - a) for a in STRENGTHS)]
    tried = [np.where(live, factor, 1.0).clip(1e-4, 1e4) for factor in tried]
    return min(tried, key=lambda factor: _noise(factor, seen, weight, bits)).astype(np.float32)


def _noise(factor: Array, seen: Channels, weight: Array, bits: int) -> float:
    """The energy that rounding adds to the products, up to a constant: a step's square, times the energy that it meets."""
    step = float((seen.high / factor).max() - (seen.low / factor).min()) / 255
    scaled = np.abs(weight) * factor[:, None]
    steps = scaled.max(0) / (2 ** (bits - 1) - 1)
    of_weights = float(np.square(steps).sum() * (seen.mean_square / np.square(factor)).sum())
    return step**2 * float(np.square(scaled).sum()) + of_weights


def _normalisation_takes(
    editor: Editor, value: str, nodes: Sequence[NodeProto], users: Mapping[str, list[NodeProto]], factor: Array
) -> bool:
    """Divide the gain and offset of the layer normalisation that gives a value to these products alone."""
    source = editor.producers().get(value)
    if source is None or source.op_type != "LayerNormalization" or value in editor.outputs or len(users[value]) != len(nodes):
        return False
    constants = list(source.input[1:])
    if any(name not in editor.constants or len(users[name]) != 1 or editor.constants[name].ndim != 1 for name in constants):
        return False
    for name in constants:
        editor.constants[name] = (editor.constants[name] / factor).astype(np.float32)
    return True


def _divide(editor: Editor, value: str, nodes: Sequence[NodeProto], factor: Array) -> str:
    """Let the products read the value times a constant, the reciprocal of the factor."""
    reciprocal = editor.add_constant(f"{value}.smoothing", (1 / factor.astype(np.float64)).astype(np.float32))
    smoothed = editor.fresh(f"{value}.smoothed")
    editor.nodes.append(make_node("Mul", [value, reciprocal], [smoothed]))
    for node in nodes:
        node.input[0] = smoothed
    return reciprocal
