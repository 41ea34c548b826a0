"""Axis rules of operators that join and pick: concatenate, split, slice, select, index, pad, gather."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lissom.graph.axes import ONE, Axis, concatenate, cut, factor, freeze, size
from lissom.graph.rules.table import Axes, Call, operator_name, rule

__all__ = ["equal_parts"]


def equal_parts(call: Call, axis: Axis, count: int) -> Axis:
    """One of ``count`` equal parts of ``axis``; all parts lose the same positions, so that they stay equal."""
    split = factor(axis, size(axis) // count, call.where)
    if split is None:
        call.freeze([axis], "divides it into equal parts")
        return call.fresh(size(axis) // count, "divides it into equal parts")
    freeze(split[0], f"{call.where} counts the parts")
    return split[1]


@rule("cat", "concat", "concatenate")
def concatenated(call: Call) -> Axes:
    """One axis is the sum of the axes that are joined; the others are tied."""
    parts = [axes for axes in (call.axes_at(node) for node in call["tensors"]) if axes and _not_empty(axes)]
    if not parts:
        return call.axes_at(call["tensors"][0])
    dim = (call["dim"] or 0) % len(parts[0])
    for other in parts[1:]:
        for place, (left, right) in enumerate(zip(parts[0], other, strict=True)):
            if place != dim:
                call.tie(left, right)
    result = list(parts[0])
    result[dim] = concatenate(*(axes[dim] for axes in parts))
    return tuple(result)


def _not_empty(axes: Axes) -> bool:
    return not (len(axes) == 1 and size(axes[0]) == 0)


@rule("stack")
def stacked(call: Call) -> Axes:
    """A new axis counts the tensors; the others are tied."""
    parts = [call.axes_at(node) for node in call["tensors"]]
    result = list(call.broadcast(parts))
    result.insert((call["dim"] or 0) % (len(result) + 1), call.fresh(len(parts), "counts the tensors"))
    return tuple(result)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "split_copy", "split_with_sizes_copy")
def split(call: Call) -> list[Axes]:
    """Parts of one length lose the same positions, since one number gives their lengths; other parts are their own."""
    axes = call.axes("self") or call.axes("tensor")
    dim = (call["dim"] or 0) % len(axes)
    lengths = [shape[dim] for shape in call.result_lengths()]
    if len(set(lengths)) == 1:
        part = equal_parts(call, axes[dim], len(lengths))
        call.states(lengths[0], part)
        return [(*axes[:dim], part, *axes[dim + 1 :]) for _ in lengths]
    parts: list[Axis] = []
    rest = axes[dim]
    for length in lengths:
        part, rest = _head(call, rest, length)
        for equal in (other for other in parts if size(other) == length):
            call.tie(equal, part)
        call.states(length, part)
        parts.append(part)
    return [(*axes[:dim], part, *axes[dim + 1 :]) for part in parts]


def _head(call: Call, axis: Axis, at: int) -> tuple[Axis, Axis]:
    if at <= 0:
        return concatenate(), axis
    return (axis, concatenate()) if at >= size(axis) else cut(axis, at, call.where)


@rule("unbind", "unbind_copy")
def unbound(call: Call) -> list[Axes]:
    """An axis is taken apart position by position."""
    axes = call.axes("self")
    dim = (call["dim"] or 0) % len(axes)
    call.freeze([axes[dim]], "takes it apart by position")
    return [(*axes[:dim], *axes[dim + 1 :]) for _ in range(size(axes[dim]))]


@rule("select", "select_copy")
def selected(call: Call) -> Axes:
    """One position is picked by number."""
    axes = call.axes("self")
    dim = call["dim"] % len(axes)
    call.freeze([axes[dim]], "picks a position by number")
    return (*axes[:dim], *axes[dim + 1 :])


@rule("slice", "slice_copy", "narrow")
def sliced(call: Call) -> Axes:
    """A range of positions is a segment; every n-th position is a factor of a grid of n columns."""
    axes = list(call.axes("self"))
    dim = (call["dim"] or 0) % len(axes)
    length = size(axes[dim])
    start = _position(call["start"], 0, length)
    end = start + call["length"] if call["length"] is not None else _position(call["end"], length, length)
    step = call["step"] or 1
    axis = axes[dim]
    if step > 1:
        grid = factor(axis, step, call.where) if end == length and start < step else None
        if grid is None:
            call.freeze([axis], "picks positions by number")
            axes[dim] = call.fresh(call.result_lengths()[0][dim], "picks positions by number")
        else:
            call.freeze([grid[1]], "picks every n-th position")
            axes[dim] = grid[0]
        return tuple(axes)
    before, rest = _head(call, axis, start)
    axes[dim], _ = _head(call, rest, end - start)
    call.states(start, before)
    call.states(end, concatenate(before, axes[dim]))
    if size(axes[dim]) == 1 and length > 1:
        call.freeze([axis], "picks a position by number")
    return tuple(axes)


def _position(value: int | None, default: int, length: int) -> int:
    if value is None:
        return default
    return max(0, min(length, value + length if value < 0 else value))


@rule("slice_scatter", "select_scatter")
def scattered(call: Call) -> Axes:
    """Positions picked by number are written over."""
    axes, source = call.axes("self"), call.axes("src")
    dim = (call["dim"] or 0) % len(axes)
    others = (*axes[:dim], *axes[dim + 1 :])
    if len(source) == len(axes):
        if size(source[dim]) == size(axes[dim]):
            return call.broadcast([axes, source])
        call.freeze([source[dim]], "writes positions by number")
        source = (*source[:dim], *source[dim + 1 :])
    call.broadcast([others, source])
    call.freeze([axes[dim]], "writes positions by number")
    return axes


@rule("index", "index_unsafe", "_unsafe_index")
def indexed(call: Call) -> Axes:
    """Axes that are looked up by number keep all positions; the others pass."""
    axes = call.axes("self")
    tables = [*call["indices"], *[None] * (len(axes) - len(call["indices"]))]
    lengths = call.result_lengths()[0]
    picked = [call.axes_at(table) for table in tables if table is not None]
    chosen = [place for place, table in enumerate(tables) if table is not None]
    run = _constant_run(call, tables[chosen[0]], size(axes[chosen[0]])) if len(chosen) == 1 else None
    if run is not None:
        _, rest = _head(call, axes[chosen[0]], run[0])
        part, _ = _head(call, rest, run[1])
        return (*axes[: chosen[0]], part, *axes[chosen[0] + 1 :])
    passing = [axis for place, axis in enumerate(axes) if place not in chosen]
    call.freeze([axes[place] for place in chosen], "looks positions up by number")
    looked_up = call.broadcast(picked)
    if len(looked_up) + len(passing) != len(lengths) or not chosen:  # a table of booleans
        call.freeze(axes, "looks positions up by a table of booleans")
        return call.fresh_frozen(lengths, "looks positions up by a table of booleans")
    adjacent = chosen == list(range(chosen[0], chosen[-1] + 1))
    at = chosen[0] if adjacent else 0
    return (*passing[:at], *looked_up, *passing[at:])


def _constant_run(call: Call, table: fx.Node, length: int) -> tuple[int, int] | None:
    """Start and length where a table of constants picks neighbouring positions, as ``x[..., [-1], :]`` does."""
    source: Any = table
    while source not in call.constants and isinstance(source, fx.Node) and operator_name(source.target) in COPIES:
        source = source.args[0]
    values = call.constants.get(source)
    if values is None or values.ndim != 1 or values.numel() == 0 or values.dtype == torch.bool:
        return None
    places = [int(value) % length for value in values]
    return (places[0], len(places)) if places == list(range(places[0], places[0] + len(places))) else None


COPIES = {"lift_fresh_copy", "clone", "to", "detach", "alias"}
"""Operators that hand a constant on as it is."""


@rule("index_select")
def index_selected(call: Call) -> Axes:
    """Positions of one axis are looked up by number."""
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    call.freeze([axes[dim]], "looks positions up by number")
    axes[dim] = call.axes("index")[0] if call.axes("index") else ONE
    return tuple(axes)


@rule("gather", "take_along_dim")
def gathered(call: Call) -> Axes:
    """Along one axis positions are looked up by number; the others are tied."""
    axes, index = call.axes("self"), call.axes("index")
    dim = call["dim"] % len(axes)
    for place, (left, right) in enumerate(zip(axes, index, strict=True)):
        if place == dim or size(left) != size(right):
            call.freeze([left, right], "looks positions up by number")
        else:
            call.tie(left, right)
    return index


@rule("constant_pad_nd", "pad")
def padded(call: Call) -> Axes:
    """Fixed positions come before and after; a negative pad cuts positions off."""
    axes = list(call.axes("self"))
    if call["mode"] not in (None, "constant"):
        call.freeze(axes, "repeats positions at the border")
        return call.fresh_frozen(call.result_lengths()[0], "repeats positions at the border")
    pad = list(call["pad"])
    for place, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        axis = axes[-place]
        _, axis = _head(call, axis, max(0, -before))
        axis, _ = _head(call, axis, size(axis) - max(0, -after))
        borders = [[call.fresh(count, "pads")] if count > 0 else [] for count in (before, after)]
        axes[-place] = concatenate(*borders[0], axis, *borders[1])
    return tuple(axes)
