"""Choice: the last levels of a training, by what a move of each saves in bits and costs in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lissom.grids.learnt_step import HIGHEST

__all__ = ["Choice"]

CAUTION = (1.0, 4.0, 16.0)
"""How many times its estimate a move's cost is taken to be; what the objective is least with is kept."""


class Choice:
    """Levels that training leaves on the wrong side of a threshold, found and put right.

    Rounding makes training's weights wander across the threshold between two levels, and where they are when it ends is
    chance. The mean gradient of loss plus bits over the last part of it is not: with ``g`` the mean gradient and ``f``
    the Fisher information, moving a level by one ``step`` against ``g`` changes the objective by
    ``f * step^2 / 2 - abs(g) * step``, which is a rate-distortion choice, since ``g`` holds the price of the bits.

    Args:
        latents: The weights under the edits, by name.
        units: How far each moves for one level.

    Example:
        >>> weight = torch.tensor([1.0, 0.0], requires_grad=True)
        >>> choice = Choice({"w": weight}, {"w": 1.0})
        >>> weight.grad = torch.tensor([0.5, -0.1])
        >>> choice.watch()
        >>> choice.moved({"w": torch.tensor([0.2, 0.9])}, caution=1.0)["w"].tolist()
        [0.0, 0.0]
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

    def moved(self, fisher: Mapping[str, Tensor], caution: float) -> dict[str, Tensor]:
        """The latents on their levels, moved by one where ``caution`` times the cost is less than the gain."""
        found = {}
        for name, latent in self.latents.items():
            unit = self.units[name]
            mean = self.sums[name] / max(self.count, 1)
            moves = mean.abs() > caution * fisher[name].to(mean) * unit / 2
            levels = torch.round(latent.detach() / unit) - torch.where(moves, mean.sign(), 0.0)
            found[name] = levels.clamp(-HIGHEST, HIGHEST) * unit
        return found

    @torch.no_grad()
    def make(self, fisher: Mapping[str, Tensor], objective: Callable[[], float]) -> int:
        """Put the latents on the levels whose ``objective`` is least, by trying; how many levels moved."""
        stay = self.moved({name: torch.full_like(sums, torch.inf) for name, sums in self.sums.items()}, 1.0)
        tried = [stay, *(self.moved(fisher, caution) for caution in CAUTION)]
        best = min(tried, key=lambda levels: self._put(levels, objective))
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
