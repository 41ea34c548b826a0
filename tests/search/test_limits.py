"""Limits: text with units becomes numbers, and anything else one sentence that says how to write it."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissom.errors import UsageError
from lissom.search.limits import Limits, parse_bytes, parse_drop, parse_seconds


@pytest.mark.parametrize(
    ("text", "drop"),
    [("1%", 0.01), ("0.5%", 0.005), (".5 %", 0.005), ("0.01", 0.01), (" 2 % ", 0.02), ("0", 0.0), ("1e-3", 0.001), ("100%", 1.0)],
)
def test_drops(text, drop):
    assert parse_drop(text) == drop


@pytest.mark.parametrize("text", ["1 point", "-1%", "", "one", "1%%", "1MB", "1,5%", "nan", "inf", "1e400%x"])
def test_drops_in_bad_units_are_refused(text):
    with pytest.raises(UsageError, match=r"--max-drop is .*write it like 1%, 0\.5% or 0\.01"):
        parse_drop(text)


def test_a_drop_over_all_there_is_was_meant_otherwise():
    with pytest.raises(UsageError, match=r"--max-drop is '5', which is over 100 %: write  1%"):
        parse_drop("5")


@pytest.mark.parametrize(
    ("text", "size"),
    [("2MB", 2e6), ("300kB", 3e5), ("4096", 4096), ("1KiB", 1024), ("1.5 mib", 1.5 * 2**20), ("2GB", 2e9), ("10b", 10)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["2 megabytes", "2Mbit", "MB", "-2MB", "2%", "2ms"])
def test_sizes_in_bad_units_are_refused(text):
    with pytest.raises(UsageError, match=r"--max-size is .*2MB, 300kB or 4096"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "time"), [("5ms", 0.005), ("250us", 250e-6), ("30s", 30), ("20min", 1200), ("2h", 7200)])
def test_times(text, time):
    assert parse_seconds(text, "--max-time") == pytest.approx(time)


@pytest.mark.parametrize("text", ["5", "5 days", "ms", "1:30", "-3s"])
def test_a_time_needs_its_unit(text):
    with pytest.raises(UsageError, match=r"--max-latency is .*5ms, 30s, 20min or 2h"):
        parse_seconds(text, "--max-latency")


@given(st.floats(0, 100, allow_subnormal=False).map(lambda value: round(value, 6)))
def test_a_percentage_is_a_hundredth(value):
    assert parse_drop(f"{value:f}%") == pytest.approx(value / 100, abs=1e-11)


@pytest.mark.parametrize("parse", [parse_drop, parse_bytes, lambda text: parse_seconds(text, "--max-time")])
@given(text=st.text(max_size=12))
def test_any_text_is_a_number_or_a_usage_error(parse, text):
    with contextlib.suppress(UsageError):
        assert parse(text) >= 0


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["max_drop", "max_size", "max_latency", "max_time"])
def test_limits_are_numbers_from_zero_up(name, value):
    with pytest.raises(UsageError, match=f"{name} is .*; it must be a number from 0 up"):
        Limits(**{name: value})
