"""Scaled dot-product attention with its masks, windows and caches, and rotary positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissom.networks.onnx.operators.dtypes import DTYPES
from lissom.networks.onnx.table import operator


@operator("Attention", 23)
def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, past_key: Tensor | None = None,
    past_value: Tensor | None = None, valid_lengths: Tensor | None = None, *, is_causal: int = 0, kv_num_heads: int | None = None,
    q_num_heads: int | None = None, qk_matmul_output_mode: int = 0, scale: float | None = None, softcap: float = 0.0,
    softmax_precision: int | None = None, left_window_size: int = -1, right_window_size: int = -1,
) -> tuple[Tensor, ...]:  # fmt: skip
    """``softmax(scale * q @ k.T + bias) @ v`` over [batch, heads, length, size], or [batch, length, heads * size].

    Further outputs: key and value with their past, and the product at the stage that the mode names (0 raw,
    1 capped, 2 masked, 3 after the softmax; the version before 24 counts capped last but one).
    """
    flat = query.ndim == 3
    q, k, v = (
        _by_head(tensor, heads) if flat else tensor
        for tensor, heads in ((query, q_num_heads), (key, kv_num_heads), (value, kv_num_heads))
    )
    offset: Tensor | int = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    elif valid_lengths is not None:
        offset = valid_lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    allowed, bias = _bias(q, k, mask, valid_lengths, offset, is_causal, left_window_size, right_window_size)
    present_key, present_value = k, v
    if q.shape[1] != k.shape[1]:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], 1) for tensor in (k, v))
    factor = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    raw = torch.matmul(q * factor, (k * factor).transpose(-1, -2))
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    masked = capped if bias is None else capped + bias.to(capped.dtype)
    if allowed is not None:
        masked = masked.masked_fill(~allowed, -math.inf)
    wide = masked if softmax_precision is None else masked.to(DTYPES[softmax_precision])
    weights = torch.softmax(wide, -1).to(q.dtype)
    if allowed is not None:  # a query that sees no key answers zero
        weights = torch.where(allowed.any(-1, keepdim=True), weights, torch.zeros((), dtype=weights.dtype))
    result = torch.matmul(weights, v)
    if flat:
        result = result.transpose(1, 2).flatten(2)
    return result, present_key, present_value, (raw, capped, masked, weights)[qk_matmul_output_mode]


def _by_head(x: Tensor, heads: int | None) -> Tensor:
    if heads is None:
        raise ValueError("Attention over three axes needs its numbers of heads")
    return x.reshape([*x.shape[:2], heads, -1]).transpose(1, 2)


def _bias(
    q: Tensor, k: Tensor, mask: Tensor | None, valid: Tensor | None, offset: Tensor | int, causal: int, left: int, right: int
) -> tuple[Tensor | None, Tensor | None]:
    """Which keys each query sees (None: all of them), and what is added to the scores."""
    allowed: Tensor | None = None
    bias: Tensor | None = None
    keys = torch.arange(k.shape[2])
    position = torch.arange(q.shape[2]).unsqueeze(1) + offset
    conditions = []
    if mask is not None:
        if mask.shape[-1] != k.shape[2]:  # a mask over the valid keys only: those beyond are not seen
            short = k.shape[2] - mask.shape[-1]
            mask = torch.nn.functional.pad(mask, (0, short), value=False if mask.dtype == torch.bool else -math.inf)
        if mask.dtype == torch.bool:
            conditions.append(mask)
        else:
            bias = mask
            conditions.append(mask != -math.inf)
    if valid is not None:
        conditions.append(keys < valid.reshape(-1, 1, 1, 1))
    if causal:
        conditions.append(keys <= position)
    if left >= 0:
        conditions.append(keys >= position - left)
    if right >= 0:
        conditions.append(keys <= position + right)
    for condition in conditions:
        allowed = condition if allowed is None else allowed & condition
    return allowed, bias


@operator("RotaryEmbedding", 23)
def rotary_embedding(
    x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor | None = None, *, interleaved: int = 0,
    num_heads: int | None = None, rotary_embedding_dim: int = 0,
) -> Tensor:  # fmt: skip
    """Pairs of features turned by an angle that grows with the position (Su et al., 2021, arXiv:2104.09864)."""
    heads = x if x.ndim == 4 else _by_head(x, num_heads)
    size = rotary_embedding_dim or heads.shape[-1]
    turned, kept = heads[..., :size], heads[..., size:]
    cos, sin = (cosines, sines) if positions is None else (cosines[positions], sines[positions])
    cos, sin = cos[..., : size // 2].unsqueeze(1), sin[..., : size // 2].unsqueeze(1)
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    result = torch.cat([turned, kept], -1)
    return result if x.ndim == 4 else result.transpose(1, 2).flatten(2)
