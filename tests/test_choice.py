"""The exact choice: as good as trying every combination, and the cheapest where the limit cannot be met."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lissom.choice import Option, choose

places = st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4), min_size=1, max_size=4)


@given(places, st.integers(0, 60))
def test_as_good_as_trying_every_combination(drawn: list[list[tuple[int, int]]], limit: int) -> None:
    options = [Option((place,), cost, loss) for place, pairs in enumerate(drawn) for cost, loss in pairs]
    chosen = [options[number] for number in choose(options, limit)]
    assert sorted(place for option in chosen for place in option.covers) == list(range(len(drawn)))
    every = [(sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)) for pairs in itertools.product(*drawn)]
    cost, loss = sum(option.cost for option in chosen), sum(option.loss for option in chosen)
    if any(each <= limit for each, _ in every):
        assert cost <= limit
        assert loss == min(loss for each, loss in every if each <= limit)
    else:
        assert cost == min(each for each, _ in every)


def test_an_option_that_decides_two_places_excludes_both() -> None:
    options = [Option(("a",), 5, 0), Option(("b",), 5, 0), Option(("a", "b"), 4, 1), Option(("a",), 1, 3), Option(("b",), 1, 3)]
    assert choose(options, 10) == (0, 1)
    assert choose(options, 5) == (2,)
    assert choose(options, 3) == (3, 4)


def test_the_runner_up_comes_when_the_best_is_excluded() -> None:
    options = [Option(("a",), 5, 0), Option(("a",), 3, 1), Option(("a",), 1, 2), Option(("b",), 0, 0)]
    assert choose(options, 4) == (1, 3)
    assert choose(options, 4, excluded=[(1, 3)]) == (2, 3)
    assert choose(options, 4, excluded=[(1, 3), (2, 3)]) == (2, 3), "nothing else meets the limit: the cheapest"
