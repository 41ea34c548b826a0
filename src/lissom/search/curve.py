"""Curve: the whole trade between size and accuracy in one run, each point trained on from the last."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.data import Data
from lissom.job import Step
from lissom.prune.channels import PruneChannels
from lissom.recipe import Recipe
from lissom.search.bisection import Candidate
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune
from lissom.train.rate import Rate

__all__ = ["WEIGHTS", "Curve"]

WEIGHTS = (0.02, 0.05, 0.12, 0.3, 0.7, 1.7, 4.0)
"""Rate weights, small to large: what one bit may cost, in the loss summed over the training samples."""

TRAINING_SAMPLES = 60_000  # seen for one point: small data gets more epochs, large data at least two
MISSES = 2  # points beyond the limits after which the curve ends


@dataclass
class Curve:
    """Train against the file with one rate weight after the other, warm-started.

    The recipe of a point is all steps up to it, and all points share one folder of checkpoints; so the steps that a
    point has in common with the last are read back and not run again, and a recipe of its own makes every point.

    Args:
        epochs: Of each point.
        remove_dead: Whether channels that died are removed after each point.
        weights: One point each.

    Example:
        >>> curve = Curve(epochs=2, remove_dead=False)
        >>> curve.ask().name, len(curve.ask().recipe.steps)
        ('rate 0.02', 1)
        >>> curve.tell(turn_further=True)
        >>> curve.ask().name, len(curve.ask().recipe.steps)
        ('rate 0.05', 2)
    """

    epochs: int
    remove_dead: bool
    weights: tuple[float, ...] = WEIGHTS
    tried: int = 0
    missed: int = 0

    @staticmethod
    def epochs_for(data: Data) -> int:
        """Epochs of a point, by the length of the training split."""
        return max(2, min(40, round(TRAINING_SAMPLES / max(len(data.train), 1))))

    def ask(self) -> Candidate | None:
        """The next point, until the limits have been missed twice in a row."""
        if self.tried == len(self.weights) or self.missed == MISSES:
            return None
        steps: list[Step] = []
        for weight in self.weights[: self.tried + 1]:
            steps.append(Finetune(epochs=self.epochs, distill=Distill(), rate=Rate(weight=weight)))
            if self.remove_dead:
                steps.append(PruneChannels(ratio=0))
        return Candidate(f"rate {self.weights[self.tried]:g}", Recipe(tuple(steps)), checkpoints="curve")

    def tell(self, *, turn_further: bool) -> None:
        """Go on to the next weight, and count misses in a row."""
        self.tried += 1
        self.missed = 0 if turn_further else self.missed + 1
