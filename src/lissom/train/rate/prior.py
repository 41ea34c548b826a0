"""Prior: what the levels of one tensor cost, as a function that training can follow downhill."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Prior"]

HALF = 0.5
SEEN = 0.4
"""What is added to each count, as an adaptive coder does before it has seen anything."""

LN2 = math.log(2)


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
        folded = (1, size, 1) if len(shape) < 2 else (shape[0], shape[1], math.prod(shape[2:]))
        self.shape: tuple[int, int, int] = folded
        # Which axes are summed over to count how alive something is: a row, a column, a place in the kernel, a kernel.
        over = ((1, 2), (0, 2), (0, 1), (2,))
        self.over = tuple(axes for axes in over if 1 < math.prod(folded[axis] for axis in axes) < size)
        if folded[2] == 1:
            self.over = self.over[:2]
        start = [1.0, 1.0, *[0.0] * len(self.over[2:])][: len(self.over)]
        self.coefficients = torch.tensor([0.0, *start])
        self.magnitude = torch.tensor(0.3)  # the parameter of the geometric distribution

    def fitted(self, latents: Tensor, rounds: int = 12) -> Tensor:
        """The bits once the coefficients have settled on these levels."""
        for _ in range(rounds):
            self.fit(latents)
        return self.bits(latents)

    def bits(self, latents: Tensor) -> Tensor:
        """What the levels that ``latents`` round to cost, a scalar.

        The gradient at a latent between -1 and 1 is what its level 1 costs more than its level 0, beyond that what
        one more level costs: exact where latents are whole, and a pull towards zero that is strong in dead rows and
        columns and weak in alive ones.

        Args:
            latents: float, of the tensor's shape, in levels.
        """
        with torch.no_grad():
            size = latents.detach().abs().to(torch.float32).reshape(self.shape)
            alive = size > HALF
            count = alive.sum()
            odds = self._odds(self._features(alive, count), alive)
        result: Tensor = _Bits.apply(latents, size, odds, self.magnitude.to(size.device))  # type: ignore[no-untyped-call]
        return result

    def fit(self, latents: Tensor) -> None:
        """One damped Newton step of the coefficients, and the magnitude's parameter in closed form."""
        size = latents.detach().abs().reshape(self.shape)
        alive = size > HALF
        count, extra = alive.sum(), (size.round() - 1).clamp_min_(0).sum()
        self.magnitude = ((extra + SEEN) / (count + extra + 2 * SEEN)).to(torch.float32)
        chance = torch.sigmoid(self._odds(self._features(alive, count), alive))
        spread = chance * (1 - chance)
        features = [torch.ones_like(chance), *(torch.where(alive, *pair[::-1]) for pair in self._features(alive, count))]
        slope = torch.stack([((chance - alive.to(chance.dtype)) * feature).sum() for feature in features]).cpu()
        weighted = [spread * feature for feature in features]
        curve = torch.stack([torch.stack([(one * other).sum() for other in features]) for one in weighted]).cpu()
        damped = curve + torch.eye(len(curve)) * (1e-3 * curve.diagonal().mean() + 1e-3)
        # Below zero a coefficient would only exploit that an alive position does not count itself.
        free = (self.coefficients > 0) | (slope < 0)
        free[0] = True
        moved = self.coefficients.clone()
        moved[free] -= torch.linalg.solve(damped[free][:, free], slope[free]).clamp(-0.5, 0.5)
        moved[1:].clamp_min_(0)
        self.coefficients = moved

    def _features(self, alive: Tensor, count: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each axis: the log activity against the tensor's, as a dead position sees it and as an alive one does."""
        whole = math.log(alive.numel()) - torch.log(count + 2 * SEEN)
        found = []
        for axes in self.over:
            seen = alive.sum(axes, keepdim=True, dtype=torch.float32)
            length = math.log(math.prod(self.shape[axis] for axis in axes))
            found.append((torch.log(seen + SEEN) - length + whole, torch.log((seen - 1).clamp_min(0) + SEEN) - length + whole))
        return found

    def _odds(self, features: list[tuple[Tensor, Tensor]], alive: Tensor) -> Tensor:
        """The log-odds of every position."""
        base = self.coefficients[0] + self._base(alive)
        of_dead = of_alive = base.to(alive.device)
        for coefficient, (dead, living) in zip(self.coefficients[1:].tolist(), features, strict=True):
            of_dead, of_alive = of_dead + coefficient * dead, of_alive + coefficient * living
        return torch.where(alive, of_alive.expand(self.shape), of_dead.expand(self.shape))

    @staticmethod
    def _base(alive: Tensor) -> Tensor:
        """The log-odds of the tensor as a whole."""
        count = alive.sum()
        return torch.log(count + SEEN) - torch.log(alive.numel() - count + SEEN)


class _Bits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latents: Tensor, size: Tensor, odds: Tensor, magnitude: Tensor) -> Tensor:
        more, last = -torch.log(magnitude), LN2 - torch.log1p(-magnitude)
        of_zeros = torch.where(size > HALF, -odds, 0.0).sum() + F.softplus(odds).sum()
        levels = size.round()
        nats = of_zeros + torch.where(levels > 0, last + (levels - 1) * more, 0.0).sum()
        slope = torch.where(size < 1, last - odds, more).clamp_min_(0)
        ctx.save_for_backward(torch.copysign(slope.reshape(latents.shape), latents.detach()))
        return nats / LN2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * (gradients[0] / LN2), None, None, None
