"""Boxes and regions: NonMaxSuppression, RoiAlign, deformable convolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissom.networks.onnx.operators.convolution import find_pads
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known


@operator("NonMaxSuppression")
def non_max_suppression(
    boxes: Tensor, scores: Tensor, most: Known | None = None, overlap: Known | None = None, least: Known | None = None, *,
    center_point_box: int = 0,
) -> Tensor:  # fmt: skip
    """The best boxes that do not overlap, as rows of (batch, class, box)."""
    limit = 0 if most is None else int(most.item())
    threshold = 0.0 if overlap is None else float(overlap.item())
    floor = -math.inf if least is None else float(least.item())
    rows = []
    for batch in range(boxes.shape[0]):
        corners = _corners(boxes[batch], center_point_box)
        overlaps = _overlaps(corners) > threshold
        for category in range(scores.shape[1]):
            rows += [[batch, category, box] for box in _kept(scores[batch, category], overlaps, limit, floor)]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)


def _corners(boxes: Tensor, center_point_box: int) -> Tensor:
    if center_point_box:
        x, y, width, height = boxes.unbind(1)
        return torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], 1)
    return torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _overlaps(corners: Tensor) -> Tensor:
    """Intersection over union of all pairs."""
    area = (corners[:, 2:] - corners[:, :2]).prod(1)
    first = torch.maximum(corners[:, None, :2], corners[None, :, :2])
    last = torch.minimum(corners[:, None, 2:], corners[None, :, 2:])
    shared = (last - first).clamp(min=0).prod(2)
    union = area[:, None] + area[None, :] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


def _kept(scores: Tensor, overlaps: Tensor, limit: int, floor: float) -> list[int]:
    alive = scores > floor
    kept: list[int] = []
    for box in torch.argsort(scores, descending=True, stable=True).tolist():
        if len(kept) == limit:
            break
        if bool(alive[box]):
            kept.append(box)
            alive = alive & ~overlaps[box]
    return kept


@operator("RoiAlign", 10)
def roi_align(
    x: Tensor, regions: Tensor, batches: Tensor, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg",
    output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Tensor:  # fmt: skip
    """Regions [K, (x1, y1, x2, y2)] of images sampled to one size each, bilinearly."""
    shift = 0.5 if coordinate_transformation_mode == "half_pixel" else 0.0
    results = []
    for region, batch in zip(regions, batches.tolist(), strict=True):
        x1, y1, x2, y2 = (region * spatial_scale - shift).tolist()
        width, height = x2 - x1, y2 - y1
        if not shift:
            width, height = max(width, 1.0), max(height, 1.0)
        rows = _samples(y1, height, output_height, sampling_ratio)
        columns = _samples(x1, width, output_width, sampling_ratio)
        grid = _bilinear(x[batch], rows.reshape(-1), columns.reshape(-1), mode == "max")
        blocks = grid.reshape([grid.shape[0], *rows.shape, *columns.shape])
        results.append(blocks.amax((2, 4)) if mode == "max" else blocks.mean((2, 4)))
    return torch.stack(results)


def _samples(start: float, length: float, bins: int, ratio: int) -> Tensor:
    """Where each bin is sampled, [bins, samples]."""
    count = ratio or max(math.ceil(length / bins), 1)
    inside = (torch.arange(count) + 0.5) / count
    return start + (torch.arange(bins).unsqueeze(1) + inside) * (length / bins)


def _bilinear(image: Tensor, rows: Tensor, columns: Tensor, largest: bool) -> Tensor:
    """``image`` [C, H, W] at rows × columns; zero more than a pixel outside. ``largest`` takes the greatest of the four parts."""
    (top, bottom, down, row_valid), (left, right, across, column_valid) = (
        _neighbours(rows, image.shape[1]), _neighbours(columns, image.shape[2]),
    )  # fmt: skip
    down = down.unsqueeze(1)
    parts = [
        image[:, top][:, :, left] * (1 - down) * (1 - across), image[:, top][:, :, right] * (1 - down) * across,
        image[:, bottom][:, :, left] * down * (1 - across), image[:, bottom][:, :, right] * down * across,
    ]  # fmt: skip
    found = torch.stack(parts).amax(0) if largest else torch.stack(parts).sum(0)
    return found * (row_valid.unsqueeze(1) & column_valid)


def _neighbours(positions: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    valid = (positions >= -1) & (positions <= length)
    inside = positions.clamp(0, length - 1)
    low = inside.floor().to(torch.int64)
    return low, (low + 1).clamp(max=length - 1), inside - low, valid


@operator("DeformConv", 19, ignores=("kernel_shape",))
def deformable_convolution(
    x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None, *,
    dilations: list[int] | None = None, group: int = 1, offset_group: int = 1,
    pads: list[int] | None = None, strides: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Convolution whose every tap is moved by its own offset (Dai et al., 2017, arXiv:1703.06211), over two axes."""
    kernel = list(weight.shape[2:])
    strides, dilations = strides or [1, 1], dilations or [1, 1]
    amounts = find_pads(x, kernel, strides, dilations, pads, "NOTSET")
    n, c = x.shape[:2]
    height, width = offset.shape[2:]
    moved = offset.reshape(n, offset_group, kernel[0], kernel[1], 2, height, width)
    rows = torch.arange(height) * strides[0] - amounts[0]
    columns = torch.arange(width) * strides[1] - amounts[1]
    taps_y = (torch.arange(kernel[0]) * dilations[0]).reshape(-1, 1, 1, 1) + rows.reshape(-1, 1)
    taps_x = (torch.arange(kernel[1]) * dilations[1]).reshape(-1, 1, 1) + columns
    y, across = moved[..., 0, :, :] + taps_y, moved[..., 1, :, :] + taps_x
    sampled = _sampled(x.reshape(n, offset_group, c // offset_group, *x.shape[2:]), y, across)
    if mask is not None:
        sampled = sampled * mask.reshape(n, offset_group, 1, *kernel, height, width)
    columns_of = sampled.reshape(n, group, c // group, *kernel, height, width)
    kernels = weight.reshape(group, weight.shape[0] // group, *weight.shape[1:])
    result = torch.einsum("ngcijhw,gocij->ngohw", columns_of, kernels).flatten(1, 2)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _sampled(x: Tensor, y: Tensor, across: Tensor) -> Tensor:
    """``x`` [N, G, C, H, W] at points [N, G, …], bilinearly, zero outside: [N, G, C, …]."""
    n, groups, channels, height, width = x.shape
    low_y, low_x = y.floor(), across.floor()
    flat = x.flatten(3)
    total = torch.zeros((), dtype=x.dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            at_y, at_x = low_y + dy, low_x + dx
            share = (1 - (y - at_y).abs()) * (1 - (across - at_x).abs())
            inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
            index = (at_y.clamp(0, height - 1) * width + at_x.clamp(0, width - 1)).to(torch.int64)
            taken = flat.gather(3, index.flatten(2).unsqueeze(2).expand(n, groups, channels, -1))
            total = total + taken.reshape(n, groups, channels, *y.shape[2:]) * (share * inside).unsqueeze(2)
    return total
