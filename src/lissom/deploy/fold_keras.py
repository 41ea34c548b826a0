"""Batch-norm folding in a Keras model: the same arithmetic on kernels whose channels come last."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from lissom.deploy.folding import Folding, neighbours, proved
from lissom.networks.keras import KerasModule
from lissom.networks.keras.walk import Place

__all__ = ["Shift", "fold_keras"]

KERNELS = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"), "kernel"),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), "kernel"),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), "pointwise_kernel"),
}
"""By kind of layer, the kernel whose outputs a normalisation behind it scales."""


class Shift(nn.Module):
    """What is left of a normalisation behind a layer without a bias: ``x + shift``.

    Args:
        shift: One value for each channel, which is the last axis.
    """

    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """The shifted tensor."""
        return x + self.shift


def fold_keras(module: KerasModule, inputs: tuple[Tensor, ...], keep: Collection[str] = ()) -> list[Folding]:
    """As :func:`lissom.deploy.fold.fold_batch_norm`, where the normalisation stands after the layer."""
    places = {place.path: place for place in module.skeleton.places}
    kinds = {path: type(place.operation).__name__ for path, place in places.items()}
    wanted = [path for path, kind in kinds.items() if kind in KERNELS or kind == "BatchNormalization"]
    pairs = [
        Folding(layer, norm, after=True, tensors=(KERNELS[kinds[layer]], "bias"))
        for layer, norm, output in neighbours(module, inputs, {path: module.get_submodule(path) for path in wanted})
        if kinds[layer] in KERNELS
        and kinds[norm] == "BatchNormalization"
        and f"{layer}.{KERNELS[kinds[layer]]}" not in keep
        and _is_plain(places[layer].operation, places[norm].operation, output.ndim)
    ]
    return proved(module, inputs, pairs, lambda pair: _fold(module, pair, places))


def _is_plain(layer: Any, norm: Any, ndim: int) -> bool:
    """Whether nothing stands between the two, and channels come last."""
    linear = getattr(layer.activation, "__name__", "") == "linear"
    last = getattr(layer, "data_format", "channels_last") == "channels_last" and norm.axis in (-1, ndim - 1)
    return linear and last and not getattr(norm, "renorm", False)


def _fold(module: KerasModule, pair: Folding, places: dict[str, Place]) -> Callable[[], None]:
    """Fold one pair; how to undo it."""
    layer: Any = module.get_submodule(pair.layer)
    norm: Any = module.get_submodule(pair.norm)
    kind, kernel = type(places[pair.layer].operation).__name__, pair.tensors[0]
    scale, shift = _scale_and_shift(norm, places[pair.norm].operation.epsilon)
    old, bias = getattr(layer, kernel), getattr(layer, "bias", None)
    setattr(layer, kernel, _parameter(_scaled(old.detach().double(), scale, kind), old))
    left: nn.Module = Shift(shift.to(old.dtype))
    if isinstance(bias, Tensor):
        layer.bias = _parameter(bias.detach().double() * scale + shift, old)
        left = nn.Identity()
    _put(module, pair.norm, left)

    def undo() -> None:
        setattr(layer, kernel, old)
        if isinstance(bias, Tensor):
            layer.bias = bias
        _put(module, pair.norm, norm)

    return undo


def _scaled(kernel: Tensor, scale: Tensor, kind: str) -> Tensor:
    if kind.startswith("Depthwise"):  # [..., in, multiplier]: the outputs of one input stand together
        return kernel * scale.reshape(kernel.shape[-2:])
    if kind.endswith("Transpose"):  # [..., out, in]
        return kernel * scale[:, None]
    return kernel * scale


def _scale_and_shift(norm: Any, epsilon: float) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` of ``a * x + b``, in float64."""
    scale = (norm.moving_variance.double() + epsilon).rsqrt()
    if (gamma := getattr(norm, "gamma", None)) is not None:
        scale = scale * gamma.detach().double()
    shift = -norm.moving_mean.double() * scale
    beta = getattr(norm, "beta", None)
    return scale, shift if beta is None else shift + beta.detach().double()


def _parameter(value: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad)


def _put(module: nn.Module, path: str, part: nn.Module) -> None:
    around, _, name = path.rpartition(".")
    setattr(module.get_submodule(around), name, part)
