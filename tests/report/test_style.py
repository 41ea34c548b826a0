"""The style sheet: text and drawings keep the contrast that WCAG 2.2 asks for, light, dark and printed."""

from __future__ import annotations

import re
from importlib import resources

import pytest

STYLE = resources.files("lissom.report").joinpath("page.css").read_text(encoding="utf-8")


def palettes() -> dict[str, dict[str, str]]:
    """The colours of each ``:root`` block, in the order of the file."""
    blocks = re.findall(r":root \{([^}]*)\}", STYLE)
    return dict(zip(("light", "dark", "print"), (dict(re.findall(r"--(\w+): (#\w+)", block)) for block in blocks), strict=True))


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["light", "dark", "print"])
@pytest.mark.parametrize("ground", ["paper", "card", "tint"])
def test_text_and_marks_stand_out_from_what_is_under_them(name, ground):
    colours = palettes()[name]
    for text in ("ink", "soft", "limit", "after"):
        assert contrast(colours[text], colours[ground]) >= 4.5, text
    assert contrast(colours["before"], colours[ground]) >= 3.0


def test_the_sheet_asks_for_nothing_from_elsewhere():
    assert not re.search(r"url\(|@import|https?:", STYLE)
