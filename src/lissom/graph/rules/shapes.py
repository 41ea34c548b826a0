"""Axis rules of operators that rearrange: reshape, permute, squeeze, expand, repeat, shuffles."""

from __future__ import annotations

from lissom.graph.axes import Axis, factor, multiply, reshape, size
from lissom.graph.rules.table import Axes, Call, rule

__all__: list[str] = []


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "_reshape_alias", "view_copy")
def reshaped(call: Call) -> Axes:
    """Row-major order is kept: axes are multiplied or factored."""
    lengths = call.result_lengths()[0]
    result = reshape(call.axes("self"), lengths, call.where)
    for length, axis in zip(lengths, result, strict=True):
        call.states(length, axis)
    return result


@rule("permute", "permute_copy")
def permuted(call: Call) -> Axes:
    """The axes in another order."""
    axes = call.axes("self")
    return tuple(axes[dim] for dim in call["dims"])


@rule("transpose", "transpose_copy", "swapaxes")
def transposed(call: Call) -> Axes:
    """Two axes change places."""
    axes = list(call.axes("self"))
    one, other = call["dim0"], call["dim1"]
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


@rule("t", "numpy_T", "mT", "adjoint")
def reversed_axes(call: Call) -> Axes:
    """The last two axes change places."""
    axes = call.axes("self")
    return (*axes[:-2], *reversed(axes[-2:]))


@rule("movedim", "moveaxis")
def moved(call: Call) -> Axes:
    """Some axes move, the others keep their order."""
    axes = call.axes("self")
    source = [call["source"]] if isinstance(call["source"], int) else list(call["source"])
    target = [call["destination"]] if isinstance(call["destination"], int) else list(call["destination"])
    places = {to % len(axes): axes[of] for of, to in zip(source, target, strict=True)}
    others = iter([axis for place, axis in enumerate(axes) if place not in {of % len(axes) for of in source}])
    return tuple(places[place] if place in places else next(others) for place in range(len(axes)))


@rule("squeeze", "squeeze_copy")
def squeezed(call: Call) -> Axes:
    """Axes of length 1 go."""
    axes = call.axes("self")
    dims = call["dim"]
    chosen = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(axes) for dim in chosen} if axes else set()
    return tuple(axis for place, axis in enumerate(axes) if place not in gone or size(axis) != 1)


@rule("unsqueeze", "unsqueeze_copy")
def unsqueezed(call: Call) -> Axes:
    """An axis of length 1 comes."""
    axes = list(call.axes("self"))
    axes.insert(call["dim"] % (len(axes) + 1), call.fresh(1))
    return tuple(axes)


@rule("expand", "expand_copy", "broadcast_to")
def expanded(call: Call) -> Axes:
    """Axes of length 1 are repeated: the number of copies is an axis of its own."""
    axes, lengths = call.axes("self"), call.result_lengths()[0]
    padded: list[Axis] = [call.fresh(1)] * (len(lengths) - len(axes)) + list(axes)
    result = tuple(axis if size(axis) == length else call.fresh(length) for axis, length in zip(padded, lengths, strict=True))
    for length, axis in zip(lengths, result, strict=True):
        call.states(length, axis)
    return result


@rule("repeat", "tile")
def repeated(call: Call) -> Axes:
    """Whole axes over and over: the copies are the slow factor."""
    axes = call.axes("self")
    times = call["repeats"] if call["repeats"] is not None else call["dims"]
    lengths = call.result_lengths()[0]
    padded: list[Axis] = [call.fresh(1)] * (len(lengths) - len(axes)) + list(axes)
    times = [1] * (len(lengths) - len(times)) + list(times)
    return tuple(multiply(call.fresh(int(count)), axis) for count, axis in zip(times, padded, strict=True))


@rule("repeat_interleave")
def interleaved(call: Call) -> Axes:
    """Each position over and over: the copies are the fast factor."""
    axes, count, dim = list(call.axes("self")), call["repeats"], call["dim"]
    if not isinstance(count, int) or dim is None:
        call.freeze(axes, "repeats positions by a table")
        return call.fresh_frozen(call.result_lengths()[0], "repeats positions by a table")
    axes[dim] = multiply(axes[dim], call.fresh(count))
    return tuple(axes)


@rule("pixel_shuffle")
def pixel_shuffled(call: Call) -> Axes:
    """``[C * r * r, H, W]`` to ``[C, H * r, W * r]``."""
    axes, r = call.axes("self"), call["upscale_factor"]
    *batch, channels, height, width = axes
    split = reshape([channels], [size(channels) // (r * r), r, r], call.where)
    call.freeze(split[1:], "spreads channels over pixels")
    return (*batch, split[0], multiply(height, split[1]), multiply(width, split[2]))


@rule("pixel_unshuffle")
def pixel_unshuffled(call: Call) -> Axes:
    """``[C, H * r, W * r]`` to ``[C * r * r, H, W]``."""
    axes, r = call.axes("self"), call["downscale_factor"]
    *batch, channels, height, width = axes
    rows, columns = factor(height, r, call.where), factor(width, r, call.where)
    call.freeze([height, width], "gathers pixels into channels")
    if rows is None or columns is None:
        call.freeze([channels], "gathers pixels into channels")
        return call.fresh_frozen(call.result_lengths()[0], "gathers pixels into channels")
    return (*batch, multiply(channels, rows[1], columns[1]), rows[0], columns[0])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffled(call: Call) -> Axes:
    """A grid of groups x channels read the other way round."""
    axes = list(call.axes("self"))
    split = factor(axes[1], size(axes[1]) // call["groups"], call.where)
    if split is None:
        call.freeze(axes[1:2], "shuffles channels in a way that no removal survives")
    else:
        call.states(call["groups"], split[0])
        axes[1] = multiply(split[1], split[0])
    return tuple(axes)
