"""Normalisation over channels that are partly gone: the mean and variance still count them, as zeros.

A layer norm without some of its channels gives other answers than one that sees zeros there, so slicing alone would change
the network. The narrowed layer pads its input back to the width that it averages over and cuts the answer: what the network
with zeros in those channels computes, in torch's and the runtime's own fused kernel.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lissom.graph.classes import change_class

__all__ = ["NarrowGroupNorm", "NarrowLayerNorm", "NarrowRMSNorm", "averaged_width", "narrow"]

Norm = nn.LayerNorm | nn.GroupNorm | nn.RMSNorm


class NarrowLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over ``averaged`` channels of which only the first ``normalized_shape`` are there, the others zero."""

    averaged: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        """As ``nn.LayerNorm.forward``, over the channels that are left."""
        width = self.normalized_shape[-1]
        gone = (0, self.averaged - width)
        weight, bias = (None if each is None else F.pad(each, gone) for each in (self.weight, self.bias))
        return F.layer_norm(F.pad(input, gone), (self.averaged,), weight, bias, self.eps)[..., :width]


class NarrowRMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` over ``averaged`` channels of which only the first ``normalized_shape`` are there, the others zero."""

    averaged: int

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.RMSNorm.forward``, over the channels that are left."""
        width = self.normalized_shape[-1]
        gone = (0, self.averaged - width)
        return F.rms_norm(F.pad(x, gone), (self.averaged,), F.pad(self.weight, gone), self.eps)[..., :width]


class NarrowGroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` whose groups have ``averaged`` channels each, of which only the first are there, the others zero."""

    averaged: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's own name
        """As ``nn.GroupNorm.forward``, over the channels that are left."""
        width = self.num_channels // self.num_groups
        batch, space = input.shape[0], input.shape[2:]
        grouped = input.reshape(batch, self.num_groups, width, *space)
        padded = F.pad(grouped, (0, 0) * len(space) + (0, self.averaged - width)).flatten(1, 2)
        whole = F.group_norm(padded, self.num_groups, eps=self.eps).reshape(batch, self.num_groups, self.averaged, *space)
        weight, bias = (each.view(-1, *[1] * len(space)) for each in (self.weight, self.bias))
        left: Tensor = whole[:, :, :width].flatten(1, 2)
        return left * weight + bias


_NARROW: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: NarrowLayerNorm,
    nn.RMSNorm: NarrowRMSNorm,
    nn.GroupNorm: NarrowGroupNorm,
}


def averaged_width(layer: nn.Module) -> int | None:
    """How many channels a mean of ``layer`` is taken over; None where it is no such layer, or cannot be narrowed.

    >>> averaged_width(nn.GroupNorm(2, 6)), averaged_width(nn.Linear(2, 2))
    (3, None)
    """
    if isinstance(layer, (NarrowLayerNorm, NarrowRMSNorm, NarrowGroupNorm)):
        return layer.averaged
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels // layer.num_groups if layer.affine else None
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and layer.weight is not None and len(layer.normalized_shape) == 1:
        return int(layer.normalized_shape[0])
    return None


def narrow(layer: nn.Module, whole: int) -> None:
    """Make ``layer``, whose tensors have lost channels, average over the ``whole`` that it averaged over before."""
    if averaged_width(layer) == whole:
        return
    change_class(layer, _narrowed)
    layer.averaged = whole  # type: ignore[assignment]


def _narrowed(kind: type) -> type:
    """The narrow class of ``kind``; a class of the user's own goes on calling its ``super().forward``."""
    base = next(plain for plain in _NARROW if issubclass(kind, plain))
    return _NARROW[base] if kind is base else type(kind.__name__, (kind, _NARROW[base]), {})
