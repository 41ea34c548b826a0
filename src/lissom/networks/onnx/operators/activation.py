"""Activation functions: Relu and its family, sigmoids, softmaxes, clipping."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.networks.onnx.operators.dtypes import STORED_ONLY
from lissom.networks.onnx.operators.elementwise import unary
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known, Value

for _name, _function in {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Softsign": F.softsign, "HardSwish": F.hardswish}.items():
    operator(_name)(unary(_function))
operator("Mish")(unary(F.mish))


@operator("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """``x`` where positive, else ``alpha * x``."""
    return F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``x`` where positive, else ``slope * x``; the slope broadcasts."""
    return torch.where(x >= 0, x, slope * x)


@operator("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Exponential linear unit."""
    return F.elu(x, alpha)


@operator("Selu")
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """Scaled exponential linear unit."""
    return gamma * F.elu(x, alpha)


@operator("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Continuously differentiable exponential linear unit."""
    return F.celu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x`` where above ``alpha``, else zero."""
    return F.threshold(x, alpha, 0.0)


@operator("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Values within ``lambd`` of zero become zero; the others move ``bias`` towards it."""
    moved = torch.where(x > lambd, x - bias, torch.where(x < -lambd, x + bias, torch.zeros((), dtype=x.dtype)))
    return moved.to(x.dtype)


@operator("Softplus")
def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``."""
    return F.softplus(x)


@operator("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """``alpha * x + beta`` within [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("Gelu")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit, exact or by tanh."""
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("Softmax", 13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Softmax over one axis."""
    return torch.softmax(x, axis)


@operator("LogSoftmax", 13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of the softmax over one axis."""
    return torch.log_softmax(x, axis)


@operator("Hardmax", 13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first largest element along the axis, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


@operator("Softmax", 1, 12)
def softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Softmax over all axes from ``axis`` on, taken as one."""
    return torch.softmax(_joined(x, axis), -1).reshape(x.shape)


@operator("LogSoftmax", 1, 12)
def log_softmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Logarithm of the softmax over all axes from ``axis`` on, taken as one."""
    return torch.log_softmax(_joined(x, axis), -1).reshape(x.shape)


@operator("Hardmax", 1, 12)
def hardmax_flat(x: Tensor, *, axis: int = 1) -> Tensor:
    """Hardmax over all axes from ``axis`` on, taken as one."""
    return hardmax(_joined(x, axis), axis=-1).reshape(x.shape)


def _joined(x: Tensor, axis: int) -> Tensor:
    first = axis % x.ndim if x.ndim else 0
    return x if first == x.ndim - 1 else x.flatten(first)


@operator("Clip", 11)
def clip(x: Tensor, low: Value | None = None, high: Value | None = None) -> Tensor:
    """``x`` within [low, high]; both equal ``high`` where low is above it."""
    if low is None and high is None:
        return x
    if x.dtype in STORED_ONLY:
        return clip(x.to(torch.int64), low, high).to(x.dtype)
    bounds = [bound.item() if isinstance(bound, Known) else bound for bound in (low, high)]
    if any(isinstance(bound, Tensor) for bound in bounds):
        bounds = [None if b is None else torch.as_tensor(b).to(x.dtype) for b in bounds]
    return torch.clamp(x, bounds[0], bounds[1])


@operator("Clip", 1, 10)
def clip_by_attributes(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002 (ONNX's names)
    """``x`` within [min, max]."""
    return x if min is None and max is None else torch.clamp(x, min, max)


@operator("Dropout", 7, ignores=("ratio", "seed"))
def dropout(x: Tensor, *_: Value) -> tuple[Tensor, Tensor]:
    """The input as it is, and a mask of ones: the network is read for inference."""
    return x, torch.ones_like(x, dtype=torch.bool)
