"""torch's multi-head attention with fewer heads than its width allows for."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissom.graph.classes import change_class

__all__ = ["PrunedAttention", "fit_heads"]


def fit_heads(layer: nn.MultiheadAttention) -> None:
    """Bring ``layer`` in line with projections that lost heads: torch's own forward takes the width to be heads x size."""
    width, rows = layer.out_proj.weight.shape
    layer.embed_dim = width
    if rows == width == layer.num_heads * layer.head_dim:
        return
    layer.num_heads = rows // layer.head_dim
    if not isinstance(layer, PrunedAttention):
        change_class(layer, lambda _: PrunedAttention)
    layer._qkv_same_embed_dim = False  # noqa: SLF001 - keeps torch's encoder layer off its fused kernel, which assumes the width


class PrunedAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` that reads the number of heads off its weights; same arguments, same answers.

    A layer becomes one in place when heads are pruned (:func:`fit_heads`), so that its parameters keep their names.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention.forward``: the output, and the attention weights where they are asked for."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        heads = [self._heads(each, place) for place, each in enumerate((query, key, value))]
        mask = self._mask(attn_mask, key_padding_mask, heads[0], heads[1], is_causal)
        scores = heads[0] @ heads[1].transpose(-1, -2) * self.head_dim**-0.5
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        mixed = F.dropout(weights, self.dropout, self.training) @ heads[2]
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        shown = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return output.squeeze(0), shown.squeeze(0) if need_weights else None
        return output if self.batch_first else output.transpose(0, 1), shown if need_weights else None

    def _heads(self, tensor: Tensor, place: int) -> Tensor:
        """One of the three projections: [batch, heads, length, head_dim]."""
        rows = slice(place * self.out_proj.weight.shape[1], (place + 1) * self.out_proj.weight.shape[1])
        together: Tensor | None = self.in_proj_weight
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)[place]
        weight = separate if together is None else together[rows]
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        projected = F.linear(tensor, weight, bias)
        return projected.view(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor, key: Tensor, is_causal: bool
    ) -> Tensor | None:
        """Everything that is masked as one tensor to add to the scores."""
        if attn_mask is None and is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
        mask = None if attn_mask is None else _additive(attn_mask, query.dtype)
        if mask is not None and mask.dim() == 3:
            mask = mask.view(query.shape[0], -1, *mask.shape[1:])
        if padding is not None:
            hidden = _additive(padding, query.dtype).reshape(query.shape[0], 1, 1, -1)
            mask = hidden if mask is None else mask + hidden
        return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
