"""Operators that make a tensor from numbers: constants, ranges, identity matrices, windows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lissom.networks.onnx.operators.dtypes import DTYPES
from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known, Value, as_tensor, largest_of


@operator("ConstantOfShape")
def constant_of_shape(lengths: Known, *, value: Tensor | None = None) -> Tensor:
    """One number everywhere; float zero by default."""
    fill = torch.zeros(1) if value is None else value
    return torch.full(lengths.list(), fill.item(), dtype=fill.dtype)


@operator("Range")
def number_range(start: Value, limit: Value, delta: Value) -> Tensor:
    """The numbers from ``start`` up to, without, ``limit``, by ``delta``."""
    first, last, by = (value.item() for value in (start, limit, delta))
    if not start.dtype.is_floating_point:
        return torch.arange(first, last, by, dtype=start.dtype)
    count = largest_of(math.ceil((last - first) / by), 0)  # of numbers, which a symbolic length still is
    return as_tensor(start) + torch.arange(count, dtype=start.dtype) * as_tensor(delta)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Ones on a diagonal, of another matrix's shape."""
    rows, columns = torch.arange(x.shape[0]).unsqueeze(1), torch.arange(x.shape[1])
    return (columns - rows == k).to(x.dtype if dtype is None else DTYPES[dtype])


def _window(name: str, terms: Callable[[bool], tuple[float, ...]]) -> None:
    @operator(name)
    def window(size: Known, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
        count = size.item()
        angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / (count if periodic else count - 1)
        waves = [(-1) ** i * term * torch.cos(i * angle) for i, term in enumerate(terms(bool(periodic)))]
        return torch.stack(waves).sum(0).to(DTYPES[output_datatype])


_window("HannWindow", lambda _: (0.5, 0.5))
_window("HammingWindow", lambda _: (25 / 46, 21 / 46))
_window("BlackmanWindow", lambda _: (0.42, 0.5, 0.08))


@operator("MelWeightMatrix")
def mel_weights(
    bins: Known, length: Known, sample_rate: Known, lowest: Known, highest: Known, *, output_datatype: int = 1
) -> Tensor:
    """Triangles on the mel scale, [spectrogram bins, mel bins], as TensorFlow makes them."""
    count, size, rate = (int(known.item()) for known in (bins, length, sample_rate))
    low, high = (2595 * math.log10(1 + known.item() / 700) for known in (lowest, highest))
    step = (high - low) / (count + 2)
    edges = [int((size + 1) * (700 * (10 ** ((low + step * i) / 2595) - 1)) // rate) for i in range(count + 2)]
    weights = torch.zeros(size // 2 + 1, count)
    for i in range(count):
        left, centre, right = edges[i : i + 3]
        if centre == left:
            weights[centre, i] = 1
        for j in range(left, centre + 1 if centre > left else left):
            weights[j, i] = (j - left) / (centre - left)
        for j in range(centre, right):
            weights[j, i] = (right - j) / (right - centre)
    return weights.to(DTYPES[output_datatype])
