"""Axis rules of operators that work position by position: broadcasting ties the axes that meet."""

from __future__ import annotations

from lissom.graph.axes import size
from lissom.graph.rules.selection import equal_parts
from lissom.graph.rules.table import Axes, Call, rule

__all__: list[str] = []

UNARY = """
    abs acos acosh alias angle asin asinh atan atanh bernoulli bitwise_not cast ceil celu clamp clamp_max clamp_min clip clone
    contiguous cos cosh deg2rad detach digamma dropout elu erf erfc erfinv exp exp2 expm1 feature_dropout floor frac
    full_like gelu hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan leaky_relu lift_fresh_copy lgamma log log10
    log1p log2 log_sigmoid log_sigmoid_forward logical_not mish nan_to_num neg ones_like positive rad2deg reciprocal relu relu6
    round rrelu_with_noise rsqrt selu sgn sigmoid sign silu sin sinc sinh softplus softshrink sqrt square tan tanh threshold
    to trunc type_as zeros_like empty_like rand_like randn_like fill native_dropout alpha_dropout expand_as
    _conj conj resolve_conj resolve_neg view_as_real_copy fake_quantize_per_tensor_affine _assert_tensor_metadata
"""

BROADCASTING = """
    add addcdiv addcmul atan2 bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift copy copysign div divide
    eq float_power floor_divide fmax fmin fmod ge gt heaviside hypot le lerp logaddexp logaddexp2 logical_and logical_or
    logical_xor lt masked_fill maximum minimum mul multiply ne nextafter pow prelu_elementwise remainder rsub sub subtract
    true_divide where xlogy __and__ __or__ __xor__ __lshift__ __rshift__
"""


@rule(*UNARY.split(), *BROADCASTING.split())
def elementwise(call: Call) -> Axes | list[Axes]:
    """Every tensor in is broadcast to every tensor out."""
    axes = call.broadcast(call.tensors())
    results = call.result_lengths()
    return axes if len(results) == 1 else [axes for _ in results]


@rule("prelu", "_prelu_kernel")
def prelu(call: Call) -> Axes:
    """One slope for all channels, or one for each."""
    axes, slope = call.axes("self"), call.axes("weight")
    if len(slope) == len(axes):
        return call.broadcast([axes, slope])
    if len(axes) > 1 and size(slope[0]) > 1:
        call.tie(axes[1], slope[0])
    return axes


@rule("glu")
def gated(call: Call) -> Axes:
    """One half times the sigmoid of the other: both halves lose the same positions."""
    axes = list(call.axes("self"))
    dim = call["dim"] % len(axes)
    axes[dim] = equal_parts(call, axes[dim], 2)
    return tuple(axes)
