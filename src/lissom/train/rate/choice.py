"""Choice: the last levels of a training, by what a move of each saves in bits and costs in the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Choice"]

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Of the moves that seem to pay, the best are made: so many of them as leave the measured objective least."""


class Choice:
    """Levels that training leaves on the wrong side of a threshold, found and lowered by one.

    Rounding makes training's weights wander across the threshold between two levels, and where they are when it ends is
    chance. The mean gradient of loss plus bits over the last part of it is not: with ``g`` the mean gradient and ``f``
    the Fisher information, a level that is lowered by one ``step`` gains about ``abs(g) * step - f * step^2 / 2``, which is
    a rate-distortion choice, since ``g`` holds the price of the bits. Steps are coarse and many moves add up, so how many of
    the best are made is decided by measuring.

    Args:
        latents: The weights under the edits, by name.
        units: How far each moves for one level.

    Example:
        >>> weight = torch.tensor([1.0, 2.0, 0.0], requires_grad=True)
        >>> choice = Choice({"w": weight}, {"w": 1.0})
        >>> weight.grad = torch.tensor([0.5, 0.1, 0.1])
        >>> choice.watch()
        >>> choice.lowered({"w": torch.tensor([0.2, 0.9, 0.1])}, share=1.0)["w"].tolist()
        [0.0, 2.0, 0.0]
    """

    def __init__(self, latents: Mapping[str, Tensor], units: Mapping[str, float]) -> None:
        self.latents, self.units = latents, units
        self.count = 0
        self.sums = {name: torch.zeros_like(latent, requires_grad=False) for name, latent in latents.items()}

    def watch(self) -> None:
        """Add the gradients of a step that was just taken back."""
        self.count += 1
        for name, latent in self.latents.items():
            if latent.grad is not None:
                self.sums[name] += latent.grad

    def gains(self, fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the objective falls by, by estimate, when a level is lowered; 0 where it would not fall."""
        found = {}
        for name, latent in self.latents.items():
            unit, mean = self.units[name], self.sums[name] / max(self.count, 1)
            gain = mean * torch.sign(torch.round(latent.detach() / unit)) * unit - fisher[name].to(mean) * unit**2 / 2
            found[name] = gain.clamp_min(0)
        return found

    def lowered(self, fisher: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
        """The latents on their levels, ``share`` of the moves that gain made, the best first."""
        gains = self.gains(fisher)
        every = torch.cat([gain[gain > 0] for gain in gains.values()])
        count = math.ceil(share * len(every))
        least = every.topk(count).values[-1] if count else torch.inf
        found = {}
        for name, latent in self.latents.items():
            levels = torch.round(latent.detach() / self.units[name])
            found[name] = (levels - torch.where(gains[name] >= least, levels.sign(), 0.0)) * self.units[name]
        return found

    @torch.no_grad()
    def make(self, fisher: Mapping[str, Tensor], objective: Callable[[], float]) -> int:
        """Put the latents on the levels whose ``objective`` is least, by trying; how many levels moved."""
        stay, *others = [self.lowered(fisher, share) for share in (0.0, *SHARES)]
        best = min((stay, *others), key=lambda levels: self._put(levels, objective))
        self._put(best, None)
        return sum(int((best[name] != stay[name]).sum()) for name in best)

    def _put(self, levels: Mapping[str, Tensor], objective: Callable[[], float] | None) -> float:
        for name, latent in self.latents.items():
            latent.copy_(levels[name])
        return 0.0 if objective is None else objective()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"count": self.count, "sums": self.sums}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.count, self.sums = state["count"], state["sums"]
