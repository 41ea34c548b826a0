"""Bisection: it closes in on where a limit breaks, asks the same again when told the same, and never goes in circles."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lissom.recipe import Recipe
from lissom.search.bisection import Bisection, Candidate, Fixed


def answers(search, goes):
    """What is asked, where strengths up to ``goes`` are possible."""
    asked = []
    while search.ask() is not None:
        asked.append(search.strength)
        search.tell(turn_further=search.strength <= goes)
    return asked


@given(st.floats(0, 1), st.integers(1, 12))
def test_it_ends_within_the_width_of_its_rounds(goes, rounds):
    search = Bisection(lambda _: Recipe(), rounds=rounds)
    asked = answers(search, goes)
    assert len(asked) == len(set(asked)) == rounds
    assert search.low <= goes <= search.high
    assert search.high - search.low == 2**-rounds
    assert max((strength for strength in asked if strength <= goes), default=0.0) == search.low


@given(st.lists(st.booleans(), min_size=1, max_size=10))
def test_told_the_same_it_asks_the_same(told):
    def run():
        search, names = Bisection(lambda _: Recipe(), rounds=len(told)), []
        for further in told:
            assert search.ask() == search.ask()  # asking changes nothing
            names.append(search.ask().name)
            search.tell(turn_further=further)
        return names, search.ask()

    assert run() == run()
    assert run()[1] is None


def test_the_recipe_is_that_of_the_strength():
    seen = []
    search = Bisection(lambda strength: seen.append(strength) or Recipe(), rounds=2)
    search.ask()
    search.tell(turn_further=False)
    search.ask()
    assert seen == [0.5, 0.25]


def test_a_fixed_list_is_tried_in_order_whatever_comes():
    candidates = (Candidate("a", Recipe()), Candidate("b", Recipe()))
    search, asked = Fixed(candidates), []
    for further in (True, False):
        asked.append(search.ask())
        search.tell(turn_further=further)
    assert (tuple(asked), search.ask()) == (candidates, None)
