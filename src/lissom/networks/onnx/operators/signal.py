"""Fourier transforms: DFT and STFT, complex numbers as pairs on the last axis."""

from __future__ import annotations

import torch
from torch import Tensor

from lissom.networks.onnx.table import operator
from lissom.networks.onnx.values import Known


@operator("DFT", 20)
def fourier(x: Tensor, length: Known | None = None, axis: Known | None = None, *, inverse: int = 0, onesided: int = 0) -> Tensor:
    """Discrete Fourier transform along an axis."""
    return _transform(x, length, -2 if axis is None else axis.item(), inverse, onesided)


@operator("DFT", 17, 19)
def fourier_by_attribute(x: Tensor, length: Known | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    """Discrete Fourier transform along an axis."""
    return _transform(x, length, axis, inverse, onesided)


def _transform(x: Tensor, length: Known | None, axis: int, inverse: int, onesided: int) -> Tensor:
    count = None if length is None else int(length.item())
    dim = axis % x.ndim
    values = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    if inverse and onesided:  # half a spectrum gives a real signal
        real: Tensor = torch.fft.irfft(values, count if count is not None else 2 * (values.shape[dim] - 1), dim)
        return real.unsqueeze(-1)
    transform = torch.fft.ifft if inverse else torch.fft.rfft if onesided else torch.fft.fft
    return torch.view_as_real(transform(values, count, dim))


@operator("STFT")
def short_time_fourier(
    signal: Tensor, step: Known, window: Tensor | None = None, length: Known | None = None, *, onesided: int = 1
) -> Tensor:
    """Fourier transforms of overlapping frames: [batch, samples, 1 or 2] to [batch, frames, bins, 2]."""
    size = length.item() if length is not None else window.shape[0] if window is not None else signal.shape[1]
    values = torch.view_as_complex(signal.contiguous()) if signal.ndim == 3 and signal.shape[-1] == 2 else signal
    flat = values.squeeze(-1) if values.ndim == 3 else values
    frames: Tensor = flat.unfold(1, size, step.item())
    weighted = frames if window is None else frames * window
    if onesided and not weighted.is_complex():
        return torch.view_as_real(torch.fft.rfft(weighted))
    return torch.view_as_real(torch.fft.fft(weighted))
