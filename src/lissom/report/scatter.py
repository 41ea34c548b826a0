"""Scatter plot: the metric of every trial against what it costs, as one SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lissom.report.markup import Markup, tag
from lissom.report.scales import Scale
from lissom.report.wording import tick_text

__all__ = ["Mark", "scatter"]

WIDTH, HEIGHT = 480, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 14, 50


@dataclass(frozen=True)
class Mark:
    """One point.

    Args:
        x: What it costs.
        y: Its metric.
        kind: ``"chosen"``, ``"candidate"``, ``"refused"`` or ``"original"``.
        title: What is read on it.
    """

    x: float
    y: float
    kind: str
    title: str


def _chosen(x: float, y: float) -> list[Markup]:
    return [tag("circle", cx=x, cy=y, r=10, class_="ring"), tag("circle", cx=x, cy=y, r=5.5, class_="dot")]


def _candidate(x: float, y: float) -> list[Markup]:
    return [tag("circle", cx=x, cy=y, r=4.5, class_="dot")]


def _refused(x: float, y: float) -> list[Markup]:
    return [tag("path", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8", class_="cross")]


def _original(x: float, y: float) -> list[Markup]:
    return [tag("rect", x=x - 4.5, y=y - 4.5, width=9, height=9, class_="square")]


def _outside(x: float, y: float, downwards: bool) -> list[Markup]:
    return [tag("path", d=f"M{x - 5:.1f} {y:.1f}h10l-5 {8 if downwards else -8}z", class_="outside")]


SHAPES: dict[str, Callable[[float, float], list[Markup]]] = {
    "refused": _refused,
    "candidate": _candidate,
    "original": _original,
    "chosen": _chosen,
}
"""The shape of each kind, in the order drawn: kinds are told apart by shape first, and by colour only beside it."""


def scatter(
    marks: Sequence[Mark],
    *,
    description: str,
    x_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    y_range: tuple[float, float] | None = None,
    x_limit: float | None = None,
    y_limit: float | None = None,
    higher_is_better: bool = True,
) -> Markup:
    """The plot.

    Args:
        marks: At least one.
        description: What a reader who cannot see the plot is told.
        x_label: What the horizontal axis shows.
        x_text: How values of the horizontal axis are written.
        y_text: How values of the vertical axis are written.
        y_range: Values beyond it are drawn at the edge as triangles; None for all values. One mark at least is within.
        x_limit: The most that is allowed, drawn as a line.
        y_limit: The worst metric that is allowed, drawn as a line.
        higher_is_better: Which side of ``y_limit`` is allowed.
    """
    across = Scale.around(
        [*(mark.x for mark in marks), *([] if x_limit is None else [x_limit])], LEFT + 8, WIDTH - RIGHT - 8, may_log=True
    )
    heights = [*(mark.y for mark in marks), *([] if y_limit is None else [y_limit])]
    if y_range is not None:
        heights = [value for value in heights if y_range[0] <= value <= y_range[1]]
    up = Scale.around(heights, HEIGHT - BOTTOM, TOP)
    return tag(
        "svg",
        tag("title", description),
        _allowed(across, up, x_limit, y_limit, higher_is_better),
        _grid(across, up, x_label, x_text, y_text),
        _limit_lines(across, up, x_limit, y_limit),
        [_drawn(mark, across, up, y_range) for kind in SHAPES for mark in marks if mark.kind == kind],
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="scatter",
        role="img",
    )


def _grid(across: Scale, up: Scale, x_label: str, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> list[Markup]:
    floor = HEIGHT - BOTTOM
    parts = [tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=floor, y2=floor, class_="axis")]
    for value in up.ticks():
        y = up.at(value)
        parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", tick_text(y_text(value)), x=LEFT - 8, y=y + 4.5, text_anchor="end"))
    for value in across.ticks(at_most=5):
        x = across.at(value)
        parts.append(tag("line", x1=x, x2=x, y1=floor, y2=floor + 5, class_="axis"))
        parts.append(tag("text", tick_text(x_text(value)), x=x, y=floor + 20, text_anchor="middle"))
    parts.append(tag("text", x_label, x=WIDTH - RIGHT, y=HEIGHT - 8, text_anchor="end", class_="label"))
    return parts


def _allowed(across: Scale, up: Scale, x_limit: float | None, y_limit: float | None, higher_is_better: bool) -> Markup | None:
    """The area within the limits, tinted."""
    if x_limit is None and y_limit is None:
        return None
    right = WIDTH - RIGHT if x_limit is None else across.at(x_limit)
    edge = None if y_limit is None else up.at(y_limit)
    top = edge if edge is not None and not higher_is_better else TOP
    bottom = edge if edge is not None and higher_is_better else HEIGHT - BOTTOM
    title = tag("title", "within the limits")
    return tag("rect", title, x=LEFT, y=top, width=right - LEFT, height=bottom - top, class_="allowed")


def _limit_lines(across: Scale, up: Scale, x_limit: float | None, y_limit: float | None) -> list[Markup]:
    parts = []
    if x_limit is not None:
        x = across.at(x_limit)
        line = tag("line", tag("title", "the limit"), x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="limit")
        parts += [line, tag("text", "limit", x=x + 6, y=HEIGHT - BOTTOM - 8, class_="limit-label")]
    if y_limit is not None:
        y = up.at(y_limit)
        line = tag("line", tag("title", "the limit"), x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="limit")
        parts += [line, tag("text", "limit", x=WIDTH - RIGHT, y=y - 5, text_anchor="end", class_="limit-label")]
    return parts


def _drawn(mark: Mark, across: Scale, up: Scale, y_range: tuple[float, float] | None) -> Markup:
    x, y = across.at(mark.x), up.at(mark.y)
    if y_range is not None and not y_range[0] <= mark.y <= y_range[1]:
        shapes = _outside(x, y, downwards=mark.y < y_range[0])
    else:
        shapes = SHAPES[mark.kind](x, y)
    return tag("g", tag("title", mark.title), shapes, class_=f"mark {mark.kind}")
