"""Operators that have integer kernels, and how each takes part in an integer graph: a table of small rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import NodeProto

from lissom.deploy.editing import Editor, attributes

__all__ = ["OPERATORS", "Operator", "weight_axis"]


@dataclass(frozen=True)
class Operator:
    """How an operator takes part.

    Args:
        takes: Whether this node can be computed in integers, given which values are integers already.
        weight: The position of the input that is a trained constant; None where there is none.
        same_scale: Whether the output has the scale of the input, because values are only moved or chosen.
        needs_output: Whether its integer kernel exists only with an integer output.
    """

    takes: Callable[[Editor, NodeProto, set[str]], bool]
    weight: int | None = None
    same_scale: bool = False
    needs_output: bool = True


def _weighted(editor: Editor, node: NodeProto, _integers: set[str]) -> bool:
    weight = editor.constants.get(node.input[1])
    return weight is not None and weight.dtype.name == "float32" and weight.ndim >= 2


def _convolution(editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    biased = len(node.input) < 3 or node.input[2] in editor.constants
    return biased and _weighted(editor, node, integers)


def _gemm(editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    fields = attributes(node)
    plain = fields.get("alpha", 1.0) == 1.0 and fields.get("beta", 1.0) == 1.0 and not fields.get("transA", 0)
    return plain and _convolution(editor, node, integers)


def _product(editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    return _weighted(editor, node, integers) and editor.constants[node.input[1]].ndim == 2


def _all_integers(_editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    """An operator that only makes sense among integers: quantizing for its sake alone would cost more than it saves."""
    return all(name in integers for name in node.input if name)


def _first_integer(_editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    return node.input[0] in integers


def _nearest(_editor: Editor, node: NodeProto, integers: set[str]) -> bool:
    return node.input[0] in integers and attributes(node).get("mode", b"nearest") == b"nearest"


OPERATORS: dict[str, Operator] = {
    "Conv": Operator(_convolution, weight=1),
    "Gemm": Operator(_gemm, weight=1, needs_output=False),
    "MatMul": Operator(_product, weight=1, needs_output=False),
    "Add": Operator(_all_integers),
    "Mul": Operator(_all_integers),
    "Concat": Operator(_all_integers),
    "AveragePool": Operator(_first_integer),
    "GlobalAveragePool": Operator(_first_integer),
    "LeakyRelu": Operator(_first_integer),
    "Sigmoid": Operator(_first_integer),
    "MaxPool": Operator(_first_integer, same_scale=True),
    "Resize": Operator(_nearest, same_scale=True),
    "Reshape": Operator(_first_integer, same_scale=True),
    "Flatten": Operator(_first_integer, same_scale=True),
    "Transpose": Operator(_first_integer, same_scale=True),
    "Squeeze": Operator(_first_integer, same_scale=True),
    "Unsqueeze": Operator(_first_integer, same_scale=True),
    "Slice": Operator(_first_integer, same_scale=True),
    "Gather": Operator(_first_integer, same_scale=True),
    "Expand": Operator(_first_integer, same_scale=True),
}
"""Every operator that ONNX Runtime has an integer kernel for, beside those that stay in float on purpose: Softmax, whose
small outputs 8 bits cannot hold, and products of two activations, which are as fast in float and far more exact."""


def weight_axis(node: NodeProto) -> int:
    """The axis of a node's weight that its output channels go along."""
    if node.op_type == "Gemm":
        return 0 if attributes(node).get("transB", 0) else 1
    return 1 if node.op_type == "MatMul" else 0
