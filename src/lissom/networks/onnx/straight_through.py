"""Which quantized levels may stay floats, so that gradients pass: those that only ever meet a DequantizeLinear."""

from __future__ import annotations

from lissom.networks.onnx.plan import Plan

__all__ = ["float_levels"]

_CARRIERS = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "MaxPool", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that do to levels held as floats the very same as to integers."""


def float_levels(plan: Plan) -> frozenset[str]:
    """The names of values that hold integer levels and that nothing needs as integers."""
    strict = set(plan.outputs)
    for call in reversed(plan.calls):
        if call.entry.name == "DequantizeLinear":
            strict.update(call.inputs[1:])
        elif call.entry.name not in _CARRIERS or strict & set(call.outputs):
            strict.update(call.inputs)
    made = {name for call in plan.calls for name in call.outputs if name}
    return frozenset(made - strict)
