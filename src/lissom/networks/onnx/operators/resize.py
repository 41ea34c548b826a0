"""Resize and Upsample in all their modes, and sampling on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known


@operator("Resize", 11)
def resize(
    x: Tensor, roi: Known | None = None, scales: Known | None = None, sizes: Known | None = None, *, antialias: int = 0,
    axes: list[int] | None = None, coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0, extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Tensor:  # fmt: skip
    """Lengths of axes changed by sampling between positions: nearest, linear or cubic."""
    chosen = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    factors, lengths = _target(x, chosen, scales, sizes, keep_aspect_ratio_policy)
    fast = _by_torch(x, chosen, factors, lengths, mode, coordinate_transformation_mode, nearest_mode, antialias, cubic_coeff_a)
    if fast is not None and not exclude_outside:
        return fast
    regions = [0.0] * len(chosen) + [1.0] * len(chosen) if roi is None or not roi.list() else roi.list()
    result = x if x.is_floating_point() else x.to(torch.float64)
    for i, axis in enumerate(chosen):
        if factors[i] == 1 and lengths[i] == x.shape[axis] and coordinate_transformation_mode != "tf_crop_and_resize":
            continue
        region = (regions[i], regions[i + len(chosen)])
        where = _coordinates(x.shape[axis], lengths[i], factors[i], coordinate_transformation_mode, region)
        weights = _weights(where, x.shape[axis], factors[i], mode, nearest_mode, cubic_coeff_a, bool(exclude_outside), antialias)
        if coordinate_transformation_mode == "tf_crop_and_resize":
            outside = (where < 0) | (where > x.shape[axis] - 1)
            moved = torch.tensordot(result.movedim(axis, -1), weights.to(result.dtype).T, 1)
            result = torch.where(outside, torch.tensor(extrapolation_value, dtype=result.dtype), moved).movedim(-1, axis)
        else:
            result = torch.tensordot(result.movedim(axis, -1), weights.to(result.dtype).T, 1).movedim(-1, axis)
    return result if result.dtype == x.dtype else torch.round(result).to(x.dtype)


@operator("Resize", 10, 10)
@operator("Upsample", 9)
def resize_asymmetric(x: Tensor, scales: Known, *, mode: str = "nearest") -> Tensor:
    """The older operators: position times scale, nearest by flooring."""
    return resize(x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@operator("Upsample", 1, 8)
def upsample_by_attribute(x: Tensor, *, scales: list[float], mode: str = "nearest") -> Tensor:
    """The oldest one: scales are an attribute."""
    return resize_asymmetric(x, Known.of(scales, torch.float32), mode=mode)


def _target(x: Tensor, axes: list[int], scales: Known | None, sizes: Known | None, policy: str) -> tuple[list[Any], list[Any]]:
    """Scale and length of each axis after resizing."""
    own = [x.shape[axis] for axis in axes]
    if sizes is None or not sizes.list():
        factors = [] if scales is None else scales.list()
        return factors, [math.floor(length * factor) for length, factor in zip(own, factors, strict=True)]
    wanted = sizes.list()
    factors = [target / length for target, length in zip(wanted, own, strict=True)]
    if policy != "stretch":
        factor = min(factors) if policy == "not_larger" else max(factors)
        return [factor] * len(axes), [math.floor(factor * length + 0.5) for length in own]
    return factors, wanted


def _by_torch(
    x: Tensor, axes: list[int], factors: list[Any], lengths: list[Any], mode: str, transform: str, nearest: str, antialias: int,
    cubic: float,
) -> Tensor | None:  # fmt: skip
    """The kernel of torch, where its definition of the mode is ONNX's; None elsewhere."""
    spatial = {axis: (factor, length) for axis, factor, length in zip(axes, factors, lengths, strict=True) if axis >= 2}
    untouched = all(type(f) in (int, float) and f == 1 for axis, f in zip(axes, factors, strict=True) if axis < 2)
    ndim = x.ndim - 2
    if not untouched or not 1 <= ndim <= 3 or len(spatial) != ndim or not x.is_floating_point() or antialias:
        return None
    target = [spatial[axis][1] for axis in range(2, x.ndim)]
    whole = all(isinstance(f, int) or (isinstance(f, float) and f == int(f)) for f, _ in spatial.values())
    if mode == "nearest" and whole and (
        (transform == "asymmetric" and nearest == "floor")
        or (transform == "half_pixel" and nearest in ("round_prefer_floor", "round_prefer_ceil"))
    ):  # fmt: skip
        return F.interpolate(x, target, mode="nearest")
    kernels = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    kernel = kernels.get((mode, ndim))
    corners = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}.get(transform)
    exact = all(_close(x.shape[axis] * factor, length) for axis, (factor, length) in spatial.items())
    grown = all(type(length) is not int or length > 1 for length in target)
    if kernel is None or corners is None or not exact or not grown or (mode == "cubic" and cubic != -0.75):
        return None
    return F.interpolate(x, target, mode=kernel, align_corners=corners)


def _close(product: Any, length: Any) -> bool:
    """Whether a scale gives the length exactly: then torch, which divides the lengths, has the same scale."""
    return bool(abs(product - length) < 1e-6) if isinstance(product, float) and type(length) is int else True


def _coordinates(length: Any, target: Any, scale: Any, transform: str, region: tuple[float, float]) -> Tensor:
    """Where each position of the result lies in the input."""
    position = torch.arange(target, dtype=torch.float64)
    found: Tensor = _TRANSFORMS[transform](position, length, target, scale, region)
    return found


def _half_pixel(position: Tensor, _length: Any, _target: Any, scale: Any, _region: tuple[float, float]) -> Any:
    return (position + 0.5) / scale - 0.5


def _pytorch_half_pixel(position: Tensor, length: Any, target: Any, scale: Any, region: tuple[float, float]) -> Any:
    return position * 0 if target == 1 else _half_pixel(position, length, target, scale, region)


def _half_pixel_symmetric(position: Tensor, length: Any, target: Any, scale: Any, region: tuple[float, float]) -> Any:
    adjustment = target / (scale * length)
    return length / 2 * (1 - adjustment) + _half_pixel(position, length, target, scale, region)


def _align_corners(position: Tensor, length: Any, _target: Any, scale: Any, _region: tuple[float, float]) -> Any:
    wide = scale * length
    return position * ((length - 1) / (wide - 1)) if wide > 1 else position * 0


def _asymmetric(position: Tensor, _length: Any, _target: Any, scale: Any, _region: tuple[float, float]) -> Any:
    return position / scale


def _crop_and_resize(position: Tensor, length: Any, target: Any, _scale: Any, region: tuple[float, float]) -> Any:
    start, end = region
    if target > 1:
        return start * (length - 1) + position * ((end - start) * (length - 1) / (target - 1))
    return position * 0 + 0.5 * (start + end) * (length - 1)


_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "half_pixel": _half_pixel,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop_and_resize,
    "tf_half_pixel_for_nn": lambda position, length, target, scale, region: (position + 0.5) / scale,  # noqa: ARG005
}

_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _weights(
    where: Tensor, length: Any, scale: Any, mode: str, nearest: str, cubic: float, exclude_outside: bool, antialias: int
) -> Tensor:
    """The matrix [target, length] that turns the input's positions into the result's."""
    if mode == "nearest":
        picked = _NEAREST[nearest](where).clamp(0, length - 1)
        return (picked.unsqueeze(1) == torch.arange(length)).to(torch.float64)
    stretch = min(scale, 1.0) if antialias else 1.0  # a smaller result: the kernel is widened over what it skips
    reach = math.ceil((1 if mode == "linear" else 2) / stretch)
    base = torch.floor(where)
    offsets = torch.arange(-reach + 1, reach + 1, dtype=torch.float64)
    positions = base.unsqueeze(1) + offsets
    distance = (where.unsqueeze(1) - positions).abs() * stretch
    weight = torch.clamp(1 - distance, min=0) if mode == "linear" else _cubic(distance, cubic)
    inside = (positions >= 0) & (positions <= length - 1)
    if exclude_outside:
        weight = torch.where(inside, weight, torch.zeros_like(weight))
    if exclude_outside or antialias:
        weight = weight / weight.sum(1, keepdim=True)
    index = positions.clamp(0, length - 1).to(torch.int64)
    return torch.zeros([where.shape[0], length], dtype=torch.float64).scatter_add(1, index, weight)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "bilinear", padding_mode: str = "zeros"
) -> Tensor:
    """Values of ``x`` at the points of a grid in [-1, 1]."""
    kernel = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid, kernel, padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(theta: Tensor, size: Known, *, align_corners: int = 0) -> Tensor:
    """The points of a grid in [-1, 1] under affine maps."""
    return F.affine_grid(theta, size.list(), bool(align_corners))
