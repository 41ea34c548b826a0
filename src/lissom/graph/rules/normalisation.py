"""Axis rules of normalisation, softmax and reductions: what is averaged or compared over an axis needs all of it."""

from __future__ import annotations

from lissom.graph.axes import ONE, Axis, factor, size
from lissom.graph.narrow_norms import averaged_width
from lissom.graph.rules.table import Axes, Call, rule

__all__: list[str] = []


@rule("batch_norm", "instance_norm")
def batch_normalised(call: Call) -> Axes | list[Axes]:
    """Each channel has its own statistics, weight and bias."""
    axes = call.axes("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        for axis in call.axes(name):
            call.tie(axis, axes[1])
    if call["training"] or not call.axes("running_mean"):
        call.freeze((*axes[:1], *axes[2:]), "averages over it")
    return _with_statistics(call, axes)


def _with_statistics(call: Call, axes: Axes) -> Axes | list[Axes]:
    """The result, and statistics that nothing of interest reads, where the operator gives them too."""
    lengths = call.result_lengths()
    rest = [call.fresh_frozen(shape, "gives statistics") for shape in lengths[1:]]
    several = isinstance(call.node.meta.get("val"), (tuple, list))
    return [axes, *rest] if several else axes


@rule("layer_norm", "rms_norm")
def layer_normalised(call: Call) -> Axes | list[Axes]:
    """All positions of the last axes are averaged: where torch's own layer does it, they can still be counted when gone."""
    axes = call.axes("input")
    count = len(call["normalized_shape"])
    if averaged_width(call.owner) is None or not call.axes("weight"):
        call.freeze(axes[-count:], "averages over it")
    for name in ("weight", "bias"):
        if call.axes(name):
            call.broadcast([axes[-count:], call.axes(name)])
    return _with_statistics(call, axes)


@rule("group_norm")
def group_normalised(call: Call) -> Axes | list[Axes]:
    """Groups of channels are averaged: a whole group can go; the same part of each only where torch's own layer averages."""
    axes = call.axes("input")
    groups = call["num_groups"] or call["group"]
    split = factor(axes[1], size(axes[1]) // groups, call.where)
    for name in ("weight", "bias"):
        for axis in call.axes(name):
            call.tie(axis, axes[1])
    if split is None:
        call.freeze(axes[1:2], "averages groups of it")
    else:
        if averaged_width(call.owner) is None or not call.axes("weight"):
            call.freeze([split[1]], "averages over it")
        call.states(groups, split[0])
    return _with_statistics(call, axes)


@rule("softmax", "log_softmax", "_safe_softmax", "softmin", "cumsum", "cumprod", "logcumsumexp",
      "cummax", "cummin", "sort", "argsort", "diff", "flip", "roll", "renorm")  # fmt: skip
def needs_all(call: Call) -> Axes | list[Axes]:
    """Every position along an axis depends on the others or on its number."""
    axes = call.axes("self")
    dims = call["dim"] if call["dim"] is not None else call["dims"]
    for dim in range(len(axes)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims:
        call.freeze([axes[dim]], "needs all its positions")
    results = call.result_lengths()
    if results[0] != tuple(map(size, axes)):
        return call.fresh_frozen(results[0], "needs all positions")
    return axes if len(results) == 1 else [axes for _ in results]


@rule("topk", "kthvalue")
def ranked(call: Call) -> list[Axes]:
    """The largest along an axis."""
    axes = call.axes("self")
    dim = (-1 if call["dim"] is None else call["dim"]) % len(axes)
    call.freeze([axes[dim]], "compares its positions")
    results = call.result_lengths()
    if len(results[0]) < len(axes):
        return [(*axes[:dim], *axes[dim + 1 :]) for _ in results]
    return [(*axes[:dim], call.fresh(shape[dim], "ranks"), *axes[dim + 1 :]) for shape in results]


@rule("sum", "linalg_vector_norm", "norm", "nansum", "count_nonzero")
def summed(call: Call) -> Axes:
    """Positions that are zero add nothing, so an axis that is summed over can lose them."""
    return _reduced(call, None)  # type: ignore[return-value]


@rule("mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "prod", "argmax", "argmin", "any", "all",
      "logsumexp", "median", "aminmax", "mode")  # fmt: skip
def averaged(call: Call) -> Axes | list[Axes]:
    """What is averaged or compared over an axis needs all of it."""
    if call["other"] is not None:
        return call.broadcast(call.tensors())
    return _reduced(call, "averages or compares its positions")


def _reduced(call: Call, why: str | None) -> Axes | list[Axes]:
    axes = call.axes("self")
    dims = call["dim"]
    chosen = range(len(axes)) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in chosen} if axes else set()
    if why is not None:
        call.freeze([axes[dim] for dim in gone], why)
    results = call.result_lengths()
    result: list[Axis] = [ONE if place in gone else axis for place, axis in enumerate(axes)]
    if results and len(results[0]) < len(axes):
        result = [axis for place, axis in enumerate(axes) if place not in gone]
    return tuple(result) if len(results) == 1 else [tuple(result) for _ in results]


@rule("_weight_norm")
def weight_normalised(call: Call) -> Axes:
    """``v * g / norm(v)`` over all axes but one: positions that are zero do not change the norm."""
    return call.broadcast([call.axes("v"), call.axes("g")])
