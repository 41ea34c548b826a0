"""Wording: claims are rounded down, figures keep three digits, and signs say which way a metric went."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.report.wording import byte_text, change_text, count_text, ms_text, seconds_text, tick_text, times_text


@settings(deadline=None, derandomize=True)
@given(st.floats(1, 1e6))
def test_a_ratio_is_never_rounded_up(ratio):
    shown = float(times_text(ratio).rstrip("×").replace(",", ""))
    assert shown <= ratio + 1e-8
    assert shown >= ratio * 0.99


@pytest.mark.parametrize(
    ("drop", "higher", "sign"), [(0.01, True, "−"), (-0.01, True, "+"), (0.01, False, "+"), (-0.01, False, "−")]
)
def test_signs_say_which_way_the_metric_went(drop, higher, sign):
    assert change_text(drop, "share", higher) == f"{sign}1.00\u00a0points"


def test_no_change_has_no_sign():
    assert change_text(0.000001, "share") == "0.00\u00a0points"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (byte_text(0), "0 B"),
        (byte_text(999), "999 B"),
        (byte_text(999_600), "1.00 MB"),
        (byte_text(5_100_000), "5.10 MB"),
        (count_text(0), "0"),
        (count_text(99_999), "99,999"),
        (count_text(1.5e9), "1.50 G"),
        (ms_text(0), "0 ms"),
        (ms_text(1234.5), "1,234 ms"),
        (seconds_text(59.6), "1 min 0 s"),
        (seconds_text(86_400), "24 h 0 min"),
        (tick_text("1,000 ms"), "1,000 ms"),
        (tick_text("0.050"), "0.05"),
    ],
)
def test_figures_read_well(text, expected):
    assert text.replace("\u00a0", " ") == expected
