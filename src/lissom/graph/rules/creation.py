"""Axis rules of operators that make tensors: all positions alike can be fewer, numbered positions cannot."""

from __future__ import annotations

from lissom.graph.rules.table import Axes, Call, rule

__all__: list[str] = []


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "empty_permuted", "scalar_tensor")
def alike(call: Call) -> Axes:
    """All positions hold the same, so an axis can be made shorter."""
    lengths = call.result_lengths()[0]
    result = tuple(call.fresh(length) for length in lengths)
    for length, axis in zip(lengths, result, strict=True):
        call.states(length, axis)
    return result


@rule("arange", "linspace", "logspace", "eye", "tril_indices", "triu_indices", "rand", "randn", "randint", "randperm", "one_hot",
      "bucketize", "searchsorted", "nonzero", "_tensor_constant", "lift_fresh")  # fmt: skip
def numbered(call: Call) -> Axes:
    """What a position holds depends on its number."""
    for axes in call.tensors():
        call.freeze(axes, "numbers positions")
    return call.fresh_frozen(call.result_lengths()[0], "numbers positions")
