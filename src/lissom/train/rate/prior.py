"""Prior: what the levels of one tensor cost, as a function that training can follow downhill."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.train.rate import kernels

__all__ = ["Prior"]

SEEN = 0.4
"""What is added to each count, as an adaptive coder does before it has seen anything."""

LN2 = math.log(2)
Array = npt.NDArray[Any]


class Prior:
    """Bits of a tensor's levels under probabilities that follow what the coder's contexts see.

    A level is zero or not, has a sign (one bit) and a geometric magnitude. The log-odds that it is not zero are linear
    in the logarithms of how alive its row, its column, its place in the kernel and its kernel are, each counted
    without the level itself: a weight that is alone in its row costs what the coder pays for it, so rows and columns
    die together. The few coefficients are fitted by Newton's method while training goes on, and are nearly optimal
    at every step.

    Args:
        shape: Of the tensor.

    Example:
        >>> alive = torch.zeros(50, 50)
        >>> alive[:5, :5] = 1.0
        >>> scattered = torch.zeros(2500)
        >>> scattered[::101] = 1.0
        >>> together, apart = (Prior((50, 50)).fitted(levels.reshape(50, 50)) for levels in (alive, scattered))
        >>> bool(together < 0.6 * apart)
        True
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        size = math.prod(shape)
        self.rows, self.columns, self.kernel = (1, size, 1) if len(shape) < 2 else (shape[0], shape[1], math.prod(shape[2:]))
        self.size = size
        # How many positions each count is out of: a row's, a column's, a place's, a kernel's.
        self.lengths = (size // self.rows, size // self.columns, size // self.kernel, self.kernel)
        informs = (1 < length < size for length in self.lengths)
        self.used = np.array([True, *informs]) & np.array([True, True, True, self.kernel > 1, self.kernel > 1])
        self.coefficients = np.where(self.used, [0.0, 1.0, 1.0, 0.0, 0.0], 0.0)
        self.magnitude = 0.3  # the parameter of the geometric distribution

    def fitted(self, latents: Tensor, rounds: int = 12) -> Tensor:
        """The bits once the coefficients have settled on these levels."""
        for _ in range(rounds):
            self.fit(latents)
        return self.bits(latents)

    def bits(self, latents: Tensor, unit: float = 1.0) -> Tensor:
        """What the levels that ``latents`` round to cost, a scalar.

        The gradient at a latent between levels -1 and 1 is what level 1 costs more than level 0, beyond that what one
        more level costs: exact where latents are whole, and a pull towards zero that is strong in dead rows and
        columns and weak in alive ones. The work is done on the CPU.

        Args:
            latents: float, of the tensor's shape.
            unit: How far a latent moves for one level.
        """
        result: Tensor = _Bits.apply(latents, self, unit)  # type: ignore[no-untyped-call]
        return result

    def fit(self, latents: Tensor, unit: float = 1.0) -> None:
        """One damped Newton step of the coefficients, and the magnitude's parameter in closed form."""
        seen = _Seen(self, self.folded(latents), 1 / unit)
        self.magnitude = (seen.extra + SEEN) / (seen.count + seen.extra + 2 * SEEN)
        row, column, place, kernel = seen.features
        slope, curve = kernels.normal_equations(
            seen.latents,
            np.float32(1 / unit),
            self.kernel,
            self.coefficients,
            seen.base,
            row,
            column,
            place,
            kernel,
            seen.kernels,
        )
        # Below zero a coefficient would only exploit that an alive position does not count itself.
        free = self.used & ((self.coefficients > 0) | (slope < 0))
        free[0] = True
        curve, slope = curve[np.ix_(free, free)], slope[free]
        curve += np.eye(len(curve)) * (1e-3 * curve.diagonal().mean() + 1e-3)
        moved = self.coefficients.copy()
        moved[free] -= np.linalg.solve(curve, slope).clip(-0.5, 0.5)
        moved[1:] = moved[1:].clip(0)
        self.coefficients = moved

    def folded(self, latents: Tensor) -> Array:
        """The latents as the kernels take them, float32 [rows, columns * kernel]."""
        found: Array = latents.detach().to("cpu", torch.float32).contiguous().numpy().reshape(self.rows, -1)
        return found


class _Seen:
    """What a tensor's positions see of each other: counts, and the features that follow from them."""

    def __init__(self, prior: Prior, latents: Array, inverse: float) -> None:
        self.prior, self.latents = prior, latents
        wide = np.zeros(latents.shape[1], np.float32)
        self.kernels = np.zeros((prior.rows, prior.columns if prior.kernel > 1 else 0), np.float32)
        rows, self.extra = kernels.count(latents, np.float32(inverse), prior.kernel, wide, self.kernels)
        self.count = float(rows.sum())
        folded = wide.reshape(prior.columns, prior.kernel)
        counts = (rows, folded.sum(1), folded.sum(0), np.arange(prior.kernel + 1, dtype=np.float32))
        self.base = math.log((self.count + SEEN) / (prior.size - self.count + SEEN))
        self.features = [self._feature(counted, length) for counted, length in zip(counts, prior.lengths, strict=True)]

    def _feature(self, counted: Array, length: int) -> Array:
        """The log activity against the tensor's, [2, positions]: as a dead position sees it and as an alive one does."""
        both = np.stack([counted, np.maximum(counted - 1, 0)])
        whole = math.log(self.prior.size / (self.count + 2 * SEEN) / length)
        return np.asarray(np.log(both + np.float32(SEEN)) + np.float32(whole), np.float32)

    def odds(self) -> tuple[Array, Array, Array]:
        """The log-odds' parts: of rows, of columns and places, of kernels."""
        constant, *by = (np.float32(coefficient) for coefficient in self.prior.coefficients)
        row, column, place, kernel = (factor * feature for factor, feature in zip(by, self.features, strict=True))
        across = (column[:, :, None] + place[:, None, :]).reshape(2, -1)
        return row + constant + np.float32(self.base), across, kernel


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, prior: Prior, unit: float) -> Tensor:
        seen = _Seen(prior, prior.folded(latents), 1 / unit)
        slope = np.empty_like(seen.latents)
        last, more = LN2 - math.log1p(-prior.magnitude), -math.log(prior.magnitude)
        nats = kernels.cost(
            seen.latents,
            np.float32(1 / unit),
            prior.kernel,
            *seen.odds(),
            seen.kernels,
            np.float32(last),
            np.float32(more),
            slope,
        )
        ctx.save_for_backward(torch.from_numpy(slope).reshape(latents.shape).to(latents))
        return torch.tensor(nats / LN2, dtype=torch.float32, device=latents.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * (gradients[0] / LN2), None, None
