"""Figures as people read them: three significant digits, decimal units, signs that are seen."""

from __future__ import annotations

import math
import re

__all__ = [
    "byte_text",
    "capitalised",
    "change_text",
    "count_text",
    "ms_text",
    "percent_text",
    "samples_text",
    "seconds_text",
    "shortened",
    "spread_text",
    "tick_text",
    "times_text",
    "value_text",
]

SPACE = "\u00a0"
"""Between a number and its unit, so that no line breaks there."""

MINUS = "\u2212"
PREFIXES = ("", "k", "M", "G", "T")


def _significant(value: float, digits: int = 3) -> str:
    """A positive number with at least ``digits`` significant digits and no exponent."""
    value = float(f"{value:.{digits - 1}e}") if value < 10**digits else value  # 0.9996 becomes 1.00 and not 1.000
    decimals = max(0, digits - 1 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{min(decimals, 6)}f}"


def _scaled(value: float, unit: str) -> str:
    power = 0
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / 1000, power + 1
    number = str(int(value)) if power == 0 and value == int(value) else _significant(value)
    return f"{number}{SPACE}{PREFIXES[power]}{unit}".rstrip()


def capitalised(text: str) -> str:
    """The text with a capital at its beginning and the rest as it is.

    >>> capitalised("mean IoU")
    'Mean IoU'
    """
    return text[:1].upper() + text[1:]


def shortened(text: str, most: int = 240) -> str:
    """The text, cut to ``most`` characters, and the cut seen.

    >>> shortened("a sentence that goes on", 10)
    'a sentenc…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def samples_text(count: int) -> str:
    """How many samples.

    >>> samples_text(1), samples_text(10_000)
    ('1 sample', '10,000 samples')
    """
    return f"{count:,} sample{'' if count == 1 else 's'}"


def byte_text(count: float) -> str:
    """A size in decimal units.

    >>> [byte_text(n).replace(SPACE, " ") for n in (512, 41_880, 1_720_000)]
    ['512 B', '41.9 kB', '1.72 MB']
    """
    return _scaled(count, "B")


def count_text(count: float) -> str:
    """How many: whole up to 99,999, with a prefix beyond.

    >>> count_text(61_706), count_text(3_500_000).replace(SPACE, " ")
    ('61,706', '3.50 M')
    """
    return f"{count:,.0f}" if count < 100_000 else _scaled(count, "")


def ms_text(milliseconds: float) -> str:
    """A time given in milliseconds; in microseconds where it is under one.

    >>> ms_text(8.234).replace(SPACE, " "), ms_text(0.8234).replace(SPACE, " ")
    ('8.23 ms', '823 µs')
    """
    if 0 < milliseconds < 0.9995:
        return f"{_significant(milliseconds * 1000)}{SPACE}µs"
    return f"{_significant(milliseconds)}{SPACE}ms"


def seconds_text(seconds: float) -> str:
    """How long something took.

    >>> [seconds_text(s).replace(SPACE, " ") for s in (0.5, 75, 7_260)]
    ['0.5 s', '1 min 15 s', '2 h 1 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60}{SPACE}min"


def percent_text(share: float, decimals: int = 1) -> str:
    """A share of one, in percent.

    >>> percent_text(0.915).replace(SPACE, " ")
    '91.5 %'
    """
    return f"{share * 100:.{decimals}f}{SPACE}%"


def times_text(ratio: float, *, up: bool = False) -> str:
    """How many times: rounded down, because a gain is never rounded up; ``up`` for a loss, which is never rounded down.

    >>> times_text(41.99), times_text(2.349), times_text(1204.9), times_text(1.021, up=True)
    ('41.9×', '2.34×', '1,204×', '1.03×')
    """
    decimals = 2 if ratio < 10 else 1 if ratio < 100 else 0
    scaled = ratio * 10**decimals
    # The hair keeps 2.3 from becoming 2.29: binary fractions lie a little beside.
    whole = math.ceil(scaled - 1e-9) if up else math.floor(scaled + 1e-9)
    return f"{whole / 10**decimals:,.{decimals}f}×"


def value_text(value: float, unit: str) -> str:
    """A metric: a share in percent, anything else with four significant digits.

    >>> value_text(0.9892, "share").replace(SPACE, " "), value_text(0.031416, "squared")
    ('98.92 %', '0.03142')
    """
    return percent_text(value, 2) if unit == "share" else f"{value:.4g}".replace("-", MINUS)


def spread_text(drop: float, unit: str) -> str:
    """The size of a drop, or of its standard error, without a sign: points of a share, else percent of the error.

    >>> spread_text(0.0013, "share").replace(SPACE, " "), spread_text(0.021, "squared").replace(SPACE, " ")
    ('0.13 points', '2.10 %')
    """
    return f"{abs(drop) * 100:.2f}{SPACE}{'points' if unit == 'share' else '%'}"


def change_text(drop: float, unit: str, higher_is_better: bool = True, error: float | None = None) -> str:
    """What happened to the metric, with its sign: a drop of an accuracy goes down, that of an error goes up.

    >>> change_text(0.0013, "share", error=0.0011).replace(SPACE, " "), change_text(0.021, "squared", False).replace(SPACE, " ")
    ('−0.13 ± 0.11 points', '+2.10 %')
    """
    number, name = spread_text(drop, unit).split(SPACE)
    sign = "" if float(number.replace(",", "")) == 0 else MINUS if (drop > 0) == higher_is_better else "+"
    around = "" if error is None else f"{SPACE}±{SPACE}{spread_text(error, unit).split(SPACE)[0]}"
    return f"{sign}{number}{around}{SPACE}{name}"


def tick_text(text: str) -> str:
    """A figure at an axis, where the zeros after the point say nothing.

    >>> tick_text("10.0 kB"), tick_text("1.50 ms"), tick_text("100 kB")
    ('10 kB', '1.5 ms', '100 kB')
    """
    return re.sub(r"(\.\d*?)0+(?!\d)", lambda found: found[1].rstrip("."), text)
