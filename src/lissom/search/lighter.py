"""Lighter: exact choices from a library of lighter parts, at one limit after the other, each trained by distillation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from lissom.deploy import Deploy
from lissom.errors import ModelRefused
from lissom.job import Job, Step
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.search.bisection import Candidate
from lissom.search.library import Budget, Library
from lissom.search.limits import Goal
from lissom.search.variants import variants

__all__ = ["Lighter"]

SHARES = (0.7, 0.45)
"""Of the network's latency, or of its parameters, that may stay: one candidate each."""

BUDGETS: dict[Goal, Budget] = {"latency": "latency", "size": "parameters"}
SHIPS: dict[Goal, Deploy] = {"latency": Deploy(precision="int8"), "size": Deploy()}
"""How the files are made that variants are timed in."""

RATIOS = (0.25, 0.5)
LEAST = 0.02  # of the work or of the parameters: smaller layers stay whole, measuring them would cost more than they can give


@dataclass
class Lighter:
    """Measure the variants of every part, then try the best choice at each share until the drop is too large.

    Args:
        network: The original.
        job: Its ``checkpoints`` keep the library, so that a stopped search goes on.
        goal: ``"latency"`` limits the time that variants are measured to take in place; ``"size"`` the parameters.
        after: What follows the choice: training, and what makes the file small or fast.
        samples: That variants are fitted and measured on.
        tried: Candidates so far.
    """

    network: Network
    job: Job
    goal: Goal
    after: Callable[[tuple[Step, ...]], Recipe]
    samples: int
    tried: int = 0

    @cached_property
    def _library(self) -> Library:
        found = tuple(variants(self.network, self.job, self.samples, ratios=RATIOS, least=LEAST))
        return Library(self.network, self.job, found, samples=self.samples, timed=self.goal == "latency", ships=SHIPS[self.goal])

    def ask(self) -> Candidate | None:
        """The choice at the next share; None after the last, or where no part of the network can be made lighter."""
        if self.tried >= len(SHARES):
            return None
        share, budget = SHARES[self.tried], BUDGETS[self.goal]
        try:
            choice = self._library.best(budget, share, self.job.executor)
        except ModelRefused:
            return None
        if not choice.variants:
            return None
        missed = (
            () if choice.met else (f"no choice of lighter parts leaves only {share:.0%} of the {budget}: this is the closest",)
        )
        return Candidate(f"lighter {share:g}", self.after(choice.recipe.steps), reasons=(*choice.reasons, *missed))

    def tell(self, *, turn_further: bool) -> None:
        """Go on to the next share, or end where this one lost too much."""
        self.tried = self.tried + 1 if turn_further else len(SHARES)
