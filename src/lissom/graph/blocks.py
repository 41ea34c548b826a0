"""Blocks: what can stand in a layer's place. Each is a short chain of plain layers with the layer's inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lissom.errors import ModelRefused

__all__ = ["BLOCKS", "block", "kernel_of", "replaceable"]

CONVOLUTIONS: dict[type, int] = {nn.Conv1d: 1, nn.Conv2d: 2}
"""Convolutions that blocks are made of, by how many axes their kernel has."""


KERNEL_AXES = {"channel": 0, "spatial": 2, "tucker": 1, "cp": 2, "grouped": 1}
"""How many axes the kernel needs that each method cuts; 0 takes linear layers, embeddings and pointwise kernels, too."""


def replaceable(layer: nn.Module, method: str = "channel") -> str:
    """Why no block of this method can take the layer's place; empty where one can.

    >>> replaceable(nn.Conv2d(4, 4, 3, groups=4))
    'it is grouped'
    >>> replaceable(nn.Conv2d(4, 4, 1), "spatial")
    'spatial blocks need a kernel of k x k'
    """
    part: Any = layer
    axes = CONVOLUTIONS.get(type(layer), 0)
    if type(layer) not in (nn.Linear, nn.Embedding, *CONVOLUTIONS):
        return f"a {type(layer).__name__} is not a plain linear layer, convolution or embedding"
    if type(layer) is nn.Embedding and part.max_norm is not None:
        return "its rows are rescaled when they are read"
    if axes and part.groups > 1:
        return "it is grouped"
    if axes and (part.padding_mode != "zeros" or isinstance(part.padding, str)):
        return f"its padding is {part.padding!r} with {part.padding_mode}"
    needed = KERNEL_AXES[method]
    if needed and (axes < needed or max(part.kernel_size) == 1):
        return f"{method} blocks need a kernel of {' x '.join('k' * needed)}"
    return ""


def block(layer: nn.Module, method: str, sizes: tuple[int, ...]) -> nn.Sequential:
    """The block that takes the place of ``layer``, with weights that torch draws at random.

    Every block ends in a layer with a bias, whether the layer had one or not: it takes up what the approximation
    does to the mean.

    Args:
        layer: A ``Linear``, an ``Embedding``, or a ``Conv1d`` or ``Conv2d`` of one group that pads with zeros.
        method: One of :data:`BLOCKS`.
        sizes: What the method's own docstring says.

    Raises:
        ModelRefused: the method is unknown or does not fit the layer.

    Example:
        >>> [tuple(each.weight.shape) for each in block(nn.Linear(8, 6), "channel", (2,))]
        [(2, 8), (6, 2)]
    """
    why = replaceable(layer, method) if method in BLOCKS else f"there is {', '.join(BLOCKS)}"
    if why:
        raise ModelRefused(f"no {method} block can take the place of {layer}: {why}")
    made = BLOCKS[method](layer, *sizes)
    weight = next(layer.parameters())
    return nn.Sequential(*made).to(device=weight.device, dtype=weight.dtype)


def _channel(layer: Any, rank: int) -> list[nn.Module]:
    """The layer into ``rank`` channels, then a pointwise layer (Zhang et al., arXiv:1505.06798); of a matrix, its SVD."""
    if isinstance(layer, nn.Linear):
        return [nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features)]
    if isinstance(layer, nn.Embedding):
        rows = nn.Embedding(layer.num_embeddings, rank, padding_idx=layer.padding_idx)
        return [rows, nn.Linear(rank, layer.embedding_dim)]
    return [_kernel(layer, layer.in_channels, rank), _pointwise(layer, rank, layer.out_channels, bias=True)]


def _spatial(layer: Any, rank: int) -> list[nn.Module]:
    """A column kernel into ``rank`` channels, then a row kernel (Jaderberg et al., arXiv:1405.3866)."""
    column = nn.Conv2d(layer.in_channels, rank, **_along(layer, 0), bias=False)
    return [column, nn.Conv2d(rank, layer.out_channels, **_along(layer, 1))]


def _tucker(layer: Any, into: int, out: int) -> list[nn.Module]:
    """Pointwise into ``into`` channels, the kernel into ``out``, pointwise out again (Kim et al., arXiv:1511.06530)."""
    return [
        _pointwise(layer, layer.in_channels, into),
        _kernel(layer, into, out),
        _pointwise(layer, out, layer.out_channels, bias=True),
    ]


def _cp(layer: Any, rank: int) -> list[nn.Module]:
    """Pointwise, a column and a row for each of ``rank`` channels, pointwise (Lebedev et al., arXiv:1412.6553)."""
    return [
        _pointwise(layer, layer.in_channels, rank),
        nn.Conv2d(rank, rank, **_along(layer, 0), groups=rank, bias=False),
        nn.Conv2d(rank, rank, **_along(layer, 1), groups=rank, bias=False),
        _pointwise(layer, rank, layer.out_channels, bias=True),
    ]


def _grouped(layer: Any, groups: int, inner: int) -> list[nn.Module]:
    """The kernel in ``groups`` groups into ``inner`` channels, then a pointwise layer that mixes them.

    With a group for each input channel it is depthwise-separable (Howard et al., arXiv:1704.04861).
    """
    if layer.in_channels % groups or inner % groups:
        raise ModelRefused(f"{layer.in_channels} input and {inner} inner channels cannot be cut into {groups} groups")
    return [_kernel(layer, layer.in_channels, inner, groups=groups), _pointwise(layer, inner, layer.out_channels, bias=True)]


BLOCKS: dict[str, Callable[..., list[nn.Module]]] = {
    "channel": _channel,
    "spatial": _spatial,
    "tucker": _tucker,
    "cp": _cp,
    "grouped": _grouped,
}
"""The layers of a block, by the name of the method that makes it."""


def _pointwise(layer: Any, into: int, out: int, *, bias: bool = False) -> nn.Module:
    made: nn.Module = type(layer)(into, out, 1, bias=bias)
    return made


def _kernel(layer: Any, into: int, out: int, groups: int = 1) -> nn.Module:
    made: nn.Module = type(layer)(
        into, out, layer.kernel_size, layer.stride, layer.padding, layer.dilation, groups=groups, bias=False
    )
    return made


def _along(layer: Any, axis: int) -> dict[str, Any]:
    """The arguments of a convolution along one axis of the kernel."""
    neutral = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    return {name: tuple(getattr(layer, name)[axis] if axis == at else rest for at in (0, 1)) for name, rest in neutral.items()}


def kernel_of(made: nn.Sequential, method: str) -> Tensor:
    """The one weight that a block amounts to: [outputs, inputs x kernel], differentiable in the block's weights.

    >>> made = block(nn.Conv2d(4, 6, 3), "tucker", (2, 3))
    >>> kernel_of(made, "tucker").shape
    torch.Size([6, 36])
    """
    return _COMPOSE[method](*made).flatten(1)


def _compose_channel(into: Any, out: Any) -> Tensor:
    first = into.weight.T if isinstance(into, nn.Embedding) else into.weight.flatten(1)
    kernel: Tensor = out.weight.flatten(1) @ first
    return kernel


def _compose_spatial(column: Any, row: Any) -> Tensor:
    return torch.einsum("orj,rci->ocij", row.weight[:, :, 0], column.weight[..., 0])


def _compose_tucker(into: Any, kernel: Any, out: Any) -> Tensor:
    return torch.einsum("os,srk,rc->ock", out.weight.flatten(1), kernel.weight.flatten(2), into.weight.flatten(1))


def _compose_cp(into: Any, column: Any, row: Any, out: Any) -> Tensor:
    factors = [into.weight.flatten(1), column.weight.flatten(1), row.weight.flatten(1), out.weight.flatten(1)]
    return torch.einsum("rc,ri,rj,or->ocij", *factors)


def _compose_grouped(kernel: Any, out: Any) -> Tensor:
    mixing = out.weight.reshape(len(out.weight), kernel.groups, -1)
    own = kernel.weight.flatten(2).unflatten(0, (kernel.groups, -1))
    return torch.einsum("ogi,gick->ogck", mixing, own).flatten(1, 2)


_COMPOSE: dict[str, Callable[..., Tensor]] = {
    "channel": _compose_channel,
    "spatial": _compose_spatial,
    "tucker": _compose_tucker,
    "cp": _compose_cp,
    "grouped": _compose_grouped,
}
