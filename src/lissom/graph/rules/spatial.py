"""Axis rules of pooling and resampling: channels pass, positions in space are fixed."""

from __future__ import annotations

from lissom.graph.axes import factor, multiply, size
from lissom.graph.rules.table import Axes, Call, operator_name, rule

__all__: list[str] = []

SPACE = {
    1: """avg_pool1d max_pool1d max_pool1d_with_indices adaptive_avg_pool1d adaptive_max_pool1d upsample_linear1d
          upsample_nearest1d _upsample_nearest_exact1d reflection_pad1d replication_pad1d lp_pool1d""",
    2: """avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d
          upsample_bilinear2d upsample_nearest2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa
          _upsample_bicubic2d_aa reflection_pad2d replication_pad2d fractional_max_pool2d grid_sampler_2d""",
    3: """avg_pool3d max_pool3d adaptive_avg_pool3d adaptive_max_pool3d
          upsample_trilinear3d upsample_nearest3d _upsample_nearest_exact3d reflection_pad3d replication_pad3d grid_sampler_3d""",
}
AXES_IN_SPACE = {name: count for count, names in SPACE.items() for name in names.split()}


@rule(*AXES_IN_SPACE)
def over_space(call: Call) -> Axes | list[Axes]:
    """Channels pass; positions in space are computed from their neighbours."""
    axes = call.tensors()[0]
    count = AXES_IN_SPACE[operator_name(call.node.target)]
    for grid in call.tensors()[1:]:
        call.freeze(grid, "resamples by it")
    call.freeze(axes[-count:], "works along it")
    results = [(*axes[:-count], *call.fresh_frozen(lengths[-count:], "works along it")) for lengths in call.result_lengths()]
    return results[0] if len(results) == 1 else results


@rule("im2col")
def patches_to_columns(call: Call) -> Axes:
    """``[C, H, W]`` to ``[C * kernel, positions]``."""
    axes, lengths = call.axes("self"), call.result_lengths()[0]
    *batch, channels, _, _ = axes
    call.freeze(axes[-2:], "slides along it")
    kernel = call.fresh(lengths[-2] // size(channels), "slides its kernel")
    return (*batch, multiply(channels, kernel), call.fresh(lengths[-1], "slides along it"))


@rule("col2im")
def columns_to_patches(call: Call) -> Axes:
    """``[C * kernel, positions]`` to ``[C, H, W]``."""
    axes, lengths = call.axes("self"), call.result_lengths()[0]
    *batch, columns, positions = axes
    call.freeze([positions], "adds up along it")
    split = factor(columns, size(columns) // lengths[-3], call.where)
    if split is None:
        call.freeze([columns], "adds up in a way that no removal survives")
        return call.fresh_frozen(lengths, "adds up")
    call.freeze([split[1]], "adds up along it")
    return (*batch, split[0], *call.fresh_frozen(lengths[-2:], "adds up"))


@rule("unfold", "unfold_copy")
def windows(call: Call) -> Axes:
    """Windows along one axis."""
    axes, lengths = list(call.axes("self")), call.result_lengths()[0]
    dim = call["dimension"] % len(axes)
    call.freeze([axes[dim]], "slides along it")
    axes[dim] = call.fresh(lengths[dim], "slides along it")
    return (*axes, call.fresh(lengths[-1], "slides along it"))


@rule("tril", "triu", "diagonal", "diag_embed")
def by_position(call: Call) -> Axes:
    """What happens depends on the number of the position."""
    axes = call.axes("self")
    call.freeze(axes, "works by the number of the position")
    if call.result_lengths()[0] == tuple(map(size, axes)):
        return axes
    return call.fresh_frozen(call.result_lengths()[0], "works by the number of the position")
