"""Scales: values keep their order, ends are held, and labels are round and few."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.report.scales import Scale

positive = st.floats(1e-6, 1e12)


@settings(deadline=None, derandomize=True)
@given(st.lists(positive, min_size=1, max_size=20), st.booleans())
def test_every_value_is_on_the_scale_in_order(values, may_log):
    scale = Scale.around(values, 10, 200, may_log=may_log)
    assert all(scale.holds(value) for value in values)
    pixels = [scale.at(value) for value in sorted(values)]
    assert pixels == sorted(pixels)
    assert all(10 <= pixel <= 200 for pixel in pixels)


@settings(deadline=None, derandomize=True)
@given(st.lists(positive, min_size=1, max_size=5), st.booleans(), st.integers(4, 8))
def test_labels_are_within_the_scale_and_few(values, may_log, at_most):
    scale = Scale.around(values, 0, 100, may_log=may_log)
    ticks = scale.ticks(at_most)
    assert 1 <= len(ticks) <= at_most
    assert ticks == sorted(set(ticks))
    slack = (scale.high - scale.low) * 1e-6
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


def test_equal_ratios_are_equally_far_apart_on_a_logarithmic_scale():
    scale = Scale.around([1, 1000], 0, 300, may_log=True)
    steps = [scale.at(high) - scale.at(low) for low, high in itertools.pairwise((1, 10, 100, 1000))]
    assert steps == pytest.approx([steps[0]] * 3)


def test_values_outside_go_to_the_nearer_end():
    scale = Scale(0, 10, 0, 100)
    assert (scale.at(-5), scale.at(25)) == (0, 100)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.881, 0.917, [0.89, 0.9, 0.91]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_labels_are_round(low, high, expected):
    assert Scale(low, high, 0, 1).ticks() == expected
