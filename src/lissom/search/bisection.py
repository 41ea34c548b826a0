"""Bisection: how far one knob can be turned before a limit breaks, in as many trials as it takes to halve the doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lissom.recipe import Recipe

__all__ = ["Bisection", "Candidate", "Fixed", "Ladder", "Search"]


@dataclass(frozen=True)
class Candidate:
    """A recipe to try, under the name that reports print.

    Args:
        name: Unique in the run.
        recipe: What to do.
        checkpoints: Name of the folder that steps keep theirs in, where candidates share one; their own by default.
        reasons: Why the recipe is what it is, for the report.
    """

    name: str
    recipe: Recipe
    checkpoints: str = ""
    reasons: tuple[str, ...] = ()


class Search(Protocol):
    """What to try next, given how the last went. Told the same outcomes, it asks for the same candidates."""

    def ask(self) -> Candidate | None:
        """The next candidate; None once there is nothing left worth trying."""

    def tell(self, *, turn_further: bool) -> None:
        """Whether the last candidate leaves room to go further."""


@dataclass
class Fixed:
    """Try these candidates, in order, whatever comes."""

    candidates: tuple[Candidate, ...]
    tried: int = 0

    def ask(self) -> Candidate | None:
        """The next of the list."""
        return self.candidates[self.tried] if self.tried < len(self.candidates) else None

    def tell(self, *, turn_further: bool) -> None:  # noqa: ARG002 - nothing that was seen changes the list
        """Go on to the next."""
        self.tried += 1


@dataclass
class Ladder(Fixed):
    """Try these candidates, each more careful than the last, until one leaves room."""

    def tell(self, *, turn_further: bool) -> None:
        """Go on to the next where this one lost too much."""
        self.tried = len(self.candidates) if turn_further else self.tried + 1


@dataclass
class Bisection:
    """Turn a strength between 0 and 1 as far as it goes.

    Args:
        recipe_at: The recipe of a strength.
        rounds: Trials at most; n of them place the strength within 2^-n.
        low: The strength that is known, or hoped, to be possible.
        high: The strength that is known, or feared, to be too much.

    Example:
        >>> search, tried = Bisection(lambda strength: Recipe(), rounds=3), []
        >>> while (candidate := search.ask()) is not None:
        ...     tried.append(candidate.name)
        ...     search.tell(turn_further=search.strength < 0.6)
        >>> tried
        ['strength 0.500', 'strength 0.750', 'strength 0.625']
    """

    recipe_at: Callable[[float], Recipe]
    rounds: int = 5
    low: float = 0.0
    high: float = 1.0

    @property
    def strength(self) -> float:
        """The strength of the next candidate."""
        return (self.low + self.high) / 2

    def ask(self) -> Candidate | None:
        """The candidate half way between what went and what did not."""
        return Candidate(f"strength {self.strength:.3f}", self.recipe_at(self.strength)) if self.rounds > 0 else None

    def tell(self, *, turn_further: bool) -> None:
        """Move the end that was learnt about."""
        self.low, self.high = (self.strength, self.high) if turn_further else (self.low, self.strength)
        self.rounds -= 1
