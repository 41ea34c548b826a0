"""Normalisations: batch, layer, group, instance, root mean square, local response, p-norm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.table import operator


@operator("BatchNormalization", 7, ignores=("spatial",))
def batch_normalisation(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """Batch normalisation by the statistics in the file; by the batch's own where the file asks for training."""
    if not training_mode:
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    batch_mean, batch_var = x.mean(axes), x.var(axes, unbiased=False)
    result = F.batch_norm(x, batch_mean, batch_var, scale, bias, False, 0.0, epsilon)
    return result, mean * momentum + batch_mean * (1 - momentum), var * momentum + batch_var * (1 - momentum)


@operator("LayerNormalization", ignores=("stash_type",))
def layer_normalisation(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5,
    output_count: int = 1,
) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
    """Normalised over all axes from ``axis`` on; further outputs are the mean and the inverse standard deviation."""
    first = axis % x.ndim
    lengths = list(x.shape[first:])
    if output_count == 1 and list(scale.shape) == lengths and (bias is None or list(bias.shape) == lengths):
        return F.layer_norm(x, lengths, scale, bias, epsilon)
    axes = list(range(first, x.ndim))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt((wide - mean).square().mean(axes, keepdim=True) + epsilon)
    result = ((wide - mean) * inverse).to(x.dtype) * scale
    return (result if bias is None else result + bias), mean, inverse


@operator("RMSNormalization", ignores=("stash_type",))
def rms_normalisation(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Divided by the root mean square over all axes from ``axis`` on."""
    axes = list(range(axis % x.ndim, x.ndim))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)).to(x.dtype) * scale


@operator("InstanceNormalization")
def instance_normalisation(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each sample normalised by itself."""
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


@operator("GroupNormalization", 21, ignores=("stash_type",))
def group_normalisation(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Groups of channels normalised by themselves; scale and bias per channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("GroupNormalization", 18, 20)
def group_normalisation_by_group(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Groups of channels normalised by themselves; scale and bias per group."""
    size = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(size), bias.repeat_interleave(size), epsilon)


@operator("MeanVarianceNormalization")
def mean_variance_normalisation(x: Tensor, *, axes: list[int] | None = None) -> Tensor:
    """Zero mean and unit variance over axes."""
    over = axes if axes is not None else [0, 2, 3]
    mean = x.mean(over, keepdim=True)
    spread = torch.sqrt((x * x).mean(over, keepdim=True) - mean * mean)
    return (x - mean) / (spread + 1e-9)


@operator("LRN")
def local_response_normalisation(x: Tensor, *, size: int, alpha: float = 0.0001, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Divided by the energy of neighbouring channels."""
    before = (size - 1) // 2
    squares = F.pad(x.square().flatten(2).transpose(1, 2), (before, size - 1 - before))
    energy = squares.unfold(-1, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
    return x / (bias + alpha / size * energy) ** beta


@operator("LpNormalization")
def lp_normalisation(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divided by the p-norm along an axis; a zero norm gives zeros."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros((), dtype=x.dtype), x / norm)
