"""Axis rules of operators that multiply and sum: linear, matrix products, einsum, convolution, attention, embedding."""

from __future__ import annotations

from torch import nn

from lissom.graph.axes import ONE, Axis, factor, size
from lissom.graph.rules.table import Axes, Call, hint, rule

__all__: list[str] = []


@rule("linear")
def linear(call: Call) -> Axes:
    """``input [..., in] @ weight [out, in].T + bias [out]``."""
    axes, weight, bias = call.axes("input"), call.axes("weight"), call.axes("bias")
    call.tie(axes[-1], weight[-1])
    result = (*axes[:-1], *weight[:-1])
    if bias:
        call.tie(bias[0], weight[0])
    call.work.append((*result, weight[-1]))
    return result


@rule("matmul", "mm", "bmm", "mv", "dot")
def matmul(call: Call) -> Axes:
    """``[..., n, k] @ [..., k, m]``, with the batch axes broadcast; a vector stands for a row or a column."""
    left, right = call.tensors()[0], call.tensors()[-1]
    row, column = left[-2:-1], right[-1:] if len(right) > 1 else ()
    inner = right[-2] if len(right) > 1 else right[0]
    call.tie(left[-1], inner)
    batch = call.broadcast([left[:-2], right[:-2]])
    call.work.append((*batch, *row, *column, inner))
    return (*batch, *row, *column)


@rule("addmm", "baddbmm", "addbmm")
def addmm(call: Call) -> Axes:
    """``self + mat1 @ mat2``."""
    left = call.axes("mat1") or call.axes("batch1")
    right = call.axes("mat2") or call.axes("batch2")
    call.tie(left[-1], right[-2])
    batch = call.broadcast([left[:-2], right[:-2]])
    product = (*batch, left[-2], right[-1])
    call.work.append((*product, right[-2]))
    return call.broadcast([product, call.axes("self")])


@rule("outer", "ger")
def outer(call: Call) -> Axes:
    """Every pair."""
    left, right = call.tensors()[0], call.tensors()[-1]
    return (left[0], right[0])


@rule("einsum")
def einsum(call: Call) -> Axes:
    """Axes of one letter are tied; a letter that the result lacks is summed over."""
    left, arrow, out = call["equation"].replace(" ", "").partition("->")
    operands = [call.axes_at(node) for node in call["tensors"]]
    named: dict[str, Axis] = {}
    ellipses: list[Axes] = []
    for letters, axes in zip(left.split(","), operands, strict=True):
        head, dots, tail = letters.partition("...")
        middle = len(axes) - len(head) - len(tail)
        ellipses.append(axes[len(head) : len(head) + middle] if dots else ())
        for letter, axis in zip(head + tail, (*axes[: len(head)], *axes[len(head) + middle :]), strict=True):
            if letter in named and size(named[letter]) == size(axis):
                call.tie(named[letter], axis)
            elif letter not in named or size(axis) > 1:
                named[letter] = axis
    batch = call.broadcast(ellipses)
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        out = ("..." if batch else "") + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    if len(operands) > 1:
        call.work.append((*batch, *named.values()))
    head, dots, tail = out.partition("...")
    return (*(named[each] for each in head), *(batch if dots else ()), *(named[each] for each in tail))


@rule("embedding")
def embedding(call: Call) -> Axes:
    """Rows are looked up by number, so none can go; the columns are channels."""
    weight = call.axes("weight")
    call.freeze(weight[:1], "looks rows up by number")
    return (*call.axes("indices"), weight[1])


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(call: Call) -> Axes:
    """``weight [out, in / groups, *kernel]``; transposed: ``[in, out / groups, *kernel]``."""
    if call["transposed"]:
        return transposed_convolution(call)
    axes, weight = call.axes("input"), call.axes("weight")
    spatial = len(weight) - 2
    groups, into, out = _grouped(call, axes[-spatial - 1], weight[1], weight[0])
    bias = call.axes("bias")
    if bias:
        call.tie(bias[0], out)
    same = [_pointwise(call, size(weight[2 + place]), place) for place in range(spatial)]
    call.freeze(weight[2:], "slides its kernel along them")
    lengths = call.result_lengths()[0][-spatial:]
    places: list[Axis] = []
    for place, (axis, length) in enumerate(zip(axes[-spatial:], lengths, strict=True)):
        if same[place]:
            places.append(axis)
        else:
            call.freeze([axis], "slides along it")
            places.append(call.fresh(length, "slides along it"))
    result = (*axes[: -spatial - 1], out, *places)
    call.work.append((*result, into, *weight[2:]))
    call.states(int(call["groups"] or 1), groups)
    return result


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Axes:
    """``weight [in, out / groups, *kernel]``."""
    axes, weight, bias = call.axes("input"), call.axes("weight"), call.axes("bias")
    spatial = len(weight) - 2
    lengths = call.result_lengths()[0]
    channels = bias[0] if bias else call.fresh(lengths[-spatial - 1])
    groups, into, out = _grouped(call, channels, weight[1], weight[0])
    call.tie(out, axes[-spatial - 1])
    call.freeze((*weight[2:], *axes[-spatial:]), "slides along them")
    places = call.fresh_frozen(lengths[-spatial:], "slides along it")
    call.work.append((*axes, into, *weight[2:]))
    call.states(int(call["groups"] or 1), groups)
    return (*axes[: -spatial - 1], channels, *places)


def _grouped(call: Call, channels: Axis, each: Axis, other: Axis) -> tuple[Axis, Axis, Axis]:
    """Tie a convolution's channel axes: ``channels`` is groups x ``each``, ``other`` is the same groups x something."""
    groups = int(call["groups"] or 1)
    if groups == 1:
        call.tie(channels, each)
        return ONE, each, other
    inside = factor(channels, size(channels) // groups, call.where)
    beside = factor(other, size(other) // groups, call.where)
    if inside is None or beside is None:
        call.freeze([channels, each, other], "groups channels in a way that no removal survives")
        return ONE, each, other
    call.tie(inside[1], each)
    call.tie(inside[0], beside[0])
    return inside[0], each, other


def _pointwise(call: Call, kernel: int, place: int) -> bool:
    """Whether the convolution leaves positions along this axis where they are."""
    padded = call["padding"] not in ("same", "valid") and _at(call["padding"], place) != 0
    return kernel == 1 and _at(call["stride"], place) == 1 and not padded


def _at(value: object, place: int) -> int:
    if isinstance(value, (list, tuple)):
        return hint(value[place if len(value) > 1 else 0])
    return hint(value or 0)


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(call: Call) -> Axes:
    """``softmax(query @ key.T * scale + mask) @ value`` over ``[..., heads, length, channels]``; queries may share keys."""
    query, key, value = call.axes("query"), call.axes("key"), call.axes("value")
    call.tie(query[-1], key[-1])
    call.tie(key[-2], value[-2])
    if call["scale"] is None and isinstance(call.owner, nn.MultiheadAttention):  # whose queries share a tensor with the values
        call.freeze([query[-1]], "divides by the square root of this size")
    call.freeze([key[-2]], "normalises over it")
    for other in (key, value):
        if call["enable_gqa"] and size(query[-3]) != size(other[-3]):
            shared = factor(query[-3], size(query[-3]) // size(other[-3]), call.where)
            if shared is None:
                call.freeze([query[-3], other[-3]], "shares keys among queries in a way that no removal survives")
            else:
                call.tie(shared[0], other[-3])
    plain = [axes[:-2] for axes in (query, key, value) if not call["enable_gqa"] or axes is query]
    batch = call.broadcast(plain)
    mask = call.axes("attn_mask")
    if mask:
        call.broadcast([(*batch, query[-2], key[-2]), mask])
    call.work.append((*batch, query[-2], key[-2], query[-1]))
    call.work.append((*batch, query[-2], key[-2], value[-1]))
    return (*batch, query[-2], value[-1])
