"""Binding: a node becomes a function of its inputs' values, with its attributes fixed and each input as it wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto

from lissom.errors import ModelRefused
from lissom.networks.onnx.table import Entry, Kind, snake_case
from lissom.networks.onnx.tensors import read_tensor
from lissom.networks.onnx.values import Known, as_known, as_tensor

__all__ = ["bind", "described", "read_attributes"]

_CONVERT: dict[Kind, Callable[[Any], Any]] = {"tensor": as_tensor, "known": as_known}


def described(node: NodeProto) -> str:
    """The node as an error names it."""
    return f"{node.op_type} node {node.name or node.output[0]!r}" if node.output else f"{node.op_type} node"


def read_attributes(node: NodeProto, entry: Entry) -> dict[str, Any]:
    """The node's attributes as the function's keywords.

    Raises:
        ModelRefused: an attribute that the function does not know, or one missing that it needs.
    """
    named = {snake_case(attribute.name): attribute for attribute in node.attribute}
    found = {name: _attribute(attribute) for name, attribute in named.items() if name not in entry.ignored}
    if "output_count" in entry.keywords:
        found["output_count"] = len(node.output)
    unknown = found.keys() - entry.keywords
    if unknown and not entry.takes_any_attribute:
        raise ModelRefused(f"{described(node)} has an attribute that lissom does not know: {', '.join(sorted(unknown))}")
    missing = entry.required - found.keys()
    if missing:
        raise ModelRefused(f"{described(node)} lacks its attribute {', '.join(sorted(missing))}")
    count, most = len(node.input), entry.most_inputs
    if count < entry.required_inputs or (most is not None and count > most):
        raise ModelRefused(f"{described(node)} has {count} inputs, and {entry.name} takes {_range(entry.required_inputs, most)}")
    return found


def _range(least: int, most: int | None) -> str:
    return f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"


def _attribute(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return read_tensor(value)
    if isinstance(value, (list, tuple)) or hasattr(value, "__len__"):
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    return value


def bind(
    entry: Entry, attributes: dict[str, Any], arriving: Sequence[Kind], rule: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """The node's function of its values.

    Args:
        entry: The operator.
        attributes: Its keywords.
        arriving: For each input, whether it comes as a tensor, known, or either (``"value"``).
        rule: The rule for known values, tried first where every input is known.
    """
    keywords = {name: value for name, value in attributes.items() if name in entry.keywords or entry.takes_any_attribute}
    function = partial(entry.function, **keywords) if keywords else entry.function
    converters = [_converter(entry.kind(position), kind) for position, kind in enumerate(arriving)]
    converted = function if not any(converters) else partial(_converting, function, tuple(converters))
    if rule is None:
        return converted
    shape_keywords = {name: value for name, value in attributes.items() if name != "output_count"}
    return partial(_rule_first, partial(rule, **shape_keywords), converted)


def _converter(wanted: Kind, arriving: Kind) -> Callable[[Any], Any] | None:
    return None if wanted in ("value", arriving) else _CONVERT[wanted]


def _converting(function: Callable[..., Any], converters: tuple[Callable[[Any], Any] | None, ...], *values: Any) -> Any:
    pairs = zip(converters, values, strict=True)
    return function(*(value if convert is None or value is None else convert(value) for convert, value in pairs))


def _rule_first(rule: Callable[..., Any], function: Callable[..., Any], *values: Any) -> Any:
    if all(value is None or isinstance(value, Known) for value in values):
        result = rule(*values)
        if result is not None:
            return result
    return function(*values)
