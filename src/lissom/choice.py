"""Choice: one candidate for every place, at the least loss within a limit, solved exactly."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Option", "choose"]

TIE = 1e-9
"""Share of the largest loss that the whole cost is worth: among equal losses the cheaper choice wins."""


@dataclass(frozen=True)
class Option:
    """One candidate.

    Args:
        covers: The places that it decides: one layer's name, or several that change together.
        cost: What it uses of the limit: bytes, multiply-accumulates, seconds.
        loss: How much it hurts; losses of different places are added.
    """

    covers: tuple[Hashable, ...]
    cost: float
    loss: float


def choose(options: Sequence[Option], limit: float, excluded: Sequence[tuple[int, ...]] = ()) -> tuple[int, ...]:
    """The options that together cover every place exactly once, cost at most ``limit``, and lose least.

    An integer program over one yes or no for each option, solved by branch and bound (SciPy's HiGHS). Where no choice
    meets the limit, the cheapest one is given: compare its cost with the limit.

    Args:
        options: At least one for every place.
        limit: On the sum of costs.
        excluded: Choices that are not wanted again; what then comes is the runner-up.

    Returns:
        Positions in ``options``, in order.

    Example:
        >>> keep, factor = Option(("a",), cost=10, loss=0.0), Option(("a",), cost=4, loss=0.2)
        >>> other, both = Option(("b",), cost=10, loss=0.0), Option(("a", "b"), cost=12, loss=0.1)
        >>> choose([keep, factor, other, both], limit=14)
        (3,)
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    places = sorted({place for option in options for place in option.covers}, key=str)
    row = {place: number for number, place in enumerate(places)}
    covering = np.zeros((len(places), len(options)))
    for number, option in enumerate(options):
        covering[[row[place] for place in option.covers], number] = 1
    costs = np.array([option.cost for option in options], float)
    losses = np.array([option.loss for option in options], float)
    cover = LinearConstraint(covering, 1, 1)
    scaled = costs / max(costs.max(), 1e-30)

    def solve(objective: np.ndarray, *constraints: LinearConstraint) -> np.ndarray | None:
        found = milp(objective, constraints=constraints, integrality=np.ones(len(options), np.int64), bounds=Bounds(0, 1))
        return None if found.x is None else np.asarray(found.x)

    largest = max(losses.max(), 1e-30)
    within = LinearConstraint(scaled[None], -np.inf, limit / max(costs.max(), 1e-30))
    anew = [LinearConstraint(np.isin(np.arange(len(options)), each)[None], -np.inf, len(each) - 1) for each in excluded]
    taken = solve(losses / largest + TIE * scaled, cover, within, *anew)
    if taken is None:
        taken = solve(scaled, cover)
    assert taken is not None, "every place has an option of its own"
    return tuple(int(number) for number in np.flatnonzero(taken > 0.5))
