"""What a tensor of the file is: a weight, other state of the network, or a constant. It depends on what reads it."""

from __future__ import annotations

from enum import Enum, auto

import torch
from torch import Tensor

__all__ = ["Role", "role_of"]


class Role(Enum):
    """What a tensor is to the network."""

    PARAMETER = auto()
    BUFFER = auto()
    CONSTANT = auto()


_SETTINGS = {
    "Clip": (1, 2), "Resize": (1, 2, 3), "Upsample": (1,), "Pad": (1, 2, 3), "OneHot": (1, 2), "Range": (0, 1, 2), "Pow": (1,),
    "Dropout": (1, 2), "Cast": (0,), "NonMaxSuppression": (2, 3, 4), "MelWeightMatrix": (0, 1, 2, 3, 4), "ConstantOfShape": (0,),
    "Equal": (0, 1), "Greater": (0, 1), "GreaterOrEqual": (0, 1), "Less": (0, 1), "LessOrEqual": (0, 1),
}  # fmt: skip
"""Inputs that say how to compute, and are no weights: by operator, their positions."""

_ALWAYS_WEIGHTS = frozenset({
    "BatchNormalization", "Conv", "ConvTranspose", "DequantizeLinear", "Gemm", "GroupNormalization", "InstanceNormalization",
    "LayerNormalization", "PRelu", "QuantizeLinear", "RMSNormalization", "MatMul",
})  # fmt: skip
"""Operators whose inputs are weights even where they have a single element."""

_STATISTICS = {"BatchNormalization": (3, 4)}
"""Inputs that training must not move by gradients."""

_LEVELS = frozenset({torch.int8, torch.uint8, torch.int16, torch.uint16})


def role_of(tensor: Tensor, consumers: list[tuple[str, int]]) -> Role:
    """The role of a tensor, given the operators that read it and at which position.

    Floating tensors are parameters, unless every reader takes them as a setting, or they are a single number in
    plain arithmetic (the ``sqrt(2)`` of a GELU). Small integers are levels, which are state; others are constants.
    """
    if not tensor.is_floating_point():
        return Role.BUFFER if tensor.dtype in _LEVELS and tensor.numel() > 1 else Role.CONSTANT
    if consumers and all(position in _STATISTICS.get(name, ()) for name, position in consumers):
        return Role.BUFFER
    if consumers and all(position in _SETTINGS.get(name, ()) for name, position in consumers):
        return Role.CONSTANT
    if tensor.numel() <= 1 and not any(name in _ALWAYS_WEIGHTS for name, _ in consumers):
        return Role.CONSTANT
    return Role.PARAMETER
