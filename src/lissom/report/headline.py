"""The top of the page: what was won in one line, a tile for each kind of figure, and the verdict on each limit."""

from __future__ import annotations

from collections.abc import Callable

from lissom.report.markup import Child, Markup, tag
from lissom.report.record import BeforeAfter, Limit, MetricFigures, Record
from lissom.report.scales import Scale
from lissom.report.wording import (
    byte_text,
    capitalised,
    change_text,
    count_text,
    ms_text,
    samples_text,
    shortened,
    spread_text,
    times_text,
    value_text,
)

__all__ = ["SHIPPED", "claim", "headline", "limit_words"]

SHIPPED = {"archive": "model.lissom", "onnx": "model.onnx", "weights": "the weights-only archive"}
"""What the file that ships is called."""


def headline(record: Record) -> Markup:
    """The header of the page."""
    return tag(
        "header",
        tag("p", "lissom compression report", class_="eyebrow"),
        tag("p", shortened(record.model), class_="model"),
        tag("h1", claim(record)),
        tag("div", [tile(record) for tile in TILES], class_="tiles"),
        _verdicts(record),
    )


def claim(record: Record) -> str:
    """What was won and what it cost, in one line; a loss is said as plainly as a gain."""
    parts = []
    if record.shipped_bytes:
        parts.append(_compared(record.bytes.source / record.shipped_bytes, "smaller", "larger"))
    if record.latency:
        ratio = record.latency[0].ratio
        parts.append("as fast as before" if _same_speed(ratio) else _compared(ratio, "faster", "slower"))
    return ", ".join([*parts, _cost(record.metric)])


def _same_speed(ratio: float) -> bool:
    """Whether a difference is within the 5 % that two halves of one measurement may differ by."""
    return 1 / 1.05 <= ratio <= 1.05


def _compared(ratio: float, better: str, worse: str) -> str:
    return f"{times_text(ratio)} {better}" if ratio >= 1 else f"{times_text(1 / ratio, up=True)} {worse}"


def _cost(metric: MetricFigures) -> str:
    size = spread_text(metric.drop, metric.unit)
    if size.startswith("0.00"):
        return f"the same {metric.name}"
    if metric.unit == "share":
        return f"{size} of {metric.name} {'lost' if metric.drop > 0 else 'gained'}"
    went_up = (metric.drop > 0) != metric.higher_is_better
    return f"{metric.name} {'up' if went_up else 'down'} by {size}"


def _tile(label: str, figure: Child, *details: Markup | None) -> Markup:
    return tag("section", tag("h2", label), tag("p", figure, class_="figure"), details, class_="tile")


def _big(ratio: float, better: str, worse: str) -> list[Child]:
    """A ratio as a large figure with its word beside it."""
    figure, word = _compared(ratio, better, worse).split(" ")
    return [figure, tag("small", f" {word}")]


def _bars(before: float, after: float, text: Callable[[float], str]) -> Markup:
    """Two bars on one scale, each with its value at its end."""
    most = max(before, after) or 1.0
    rows = [
        tag(
            "div",
            tag("span", word, class_="word"),
            tag("span", tag("i", class_=word, style=f"width:{max(value / most * 100, 0.6):.1f}%"), class_="track"),
            tag("b", text(value)),
            class_="bar-row",
        )
        for word, value in (("before", before), ("after", after))
    ]
    return tag("div", rows, class_="bars")


def _size_tile(record: Record) -> Markup | None:
    after = record.shipped_bytes
    if not after:
        return None
    ratio = record.bytes.source / after
    weights = "" if record.ratio is None else f"Weights alone: {times_text(record.ratio)}"
    return _tile(
        f"Size of {SHIPPED[record.ship]}",
        _big(ratio, "smaller", "larger"),
        _bars(record.bytes.source, after, byte_text),
        tag("p", weights, class_="fine") if weights else None,
    )


def _metric_tile(record: Record) -> Markup:
    metric = record.metric
    change = change_text(metric.drop, metric.unit, metric.higher_is_better, metric.standard_error)
    limit = next((limit.limit for limit in record.limits if limit.name == "max_drop"), None)
    return _tile(
        f"{capitalised(metric.name)} on the {metric.split} split",
        value_text(metric.after, metric.unit),
        tag("p", tag("b", change), f" from {value_text(metric.before, metric.unit)}"),
        _interval(metric, limit),
        tag("p", f"{samples_text(metric.n)} that chose nothing", class_="fine"),
        tag("p", "The data is too small to tell this drop from its limit.", class_="fine warning") if metric.undecided else None,
    )


def _interval(metric: MetricFigures, limit: float | None) -> Markup | None:
    """The drop with its standard error on a line that starts at no drop and shows the limit."""
    error = metric.standard_error
    if error is None:
        return None
    ends = [0.0, metric.drop - error, metric.drop + error, *([] if limit is None else [limit])]
    scale = Scale.around(ends, 8, 232)
    across = Scale(min(ends) - (max(ends) - min(ends) or 1.0) * 0.06, scale.high, 8, 232)
    zero, drop = across.at(0), across.at(metric.drop)
    marks = [
        tag("line", x1=8, x2=232, y1=16, y2=16, class_="grid"),
        tag("line", tag("title", "no drop"), x1=zero, x2=zero, y1=9, y2=23, class_="axis"),
        tag("text", "no drop", x=max(zero, 22), y=36, text_anchor="middle"),
        tag("line", x1=across.at(metric.drop - error), x2=across.at(metric.drop + error), y1=16, y2=16, class_="whisker"),
        tag("circle", tag("title", f"drop {spread_text(metric.drop, metric.unit)}"), cx=drop, cy=16, r=5, class_="dot"),
    ]
    if limit is not None:
        x = across.at(limit)
        marks.append(
            tag("line", tag("title", f"limit {spread_text(limit, metric.unit)}"), x1=x, x2=x, y1=5, y2=27, class_="limit")
        )
        marks.append(tag("text", "limit", x=min(x, 220), y=36, text_anchor="middle", class_="limit-label"))
    title = tag("title", "The drop, plus and minus one standard error, and its limit")
    return tag("svg", title, marks, viewBox="0 0 240 40", class_="interval", role="img")


def _latency_tile(record: Record) -> Markup | None:
    if not record.latency:
        return None
    first = record.latency[0]
    threads = f"{first.threads} thread{'s' if first.threads > 1 else ''}"
    return _tile(
        f"One call in {first.runtime}",
        "as fast" if _same_speed(first.ratio) else _big(first.ratio, "faster", "slower"),
        _bars(first.before_ms.p10, first.after_ms.p10, ms_text),
        tag("p", f"{threads}, batch {first.batch}, {first.cpu}", class_="fine"),
        tag("p", f"Memory at the peak: {_from_to(record.peak_memory, byte_text)}", class_="fine") if record.peak_memory else None,
    )


def _work_tile(record: Record) -> Markup:
    counted = record.macs or record.parameters
    other = "" if record.macs is None else f"For one sample. Parameters: {_from_to(record.parameters)}"
    same = counted.before == counted.after
    return _tile(
        "Multiply-accumulates" if record.macs else "Parameters",
        "unchanged" if same else _big(counted.before / max(counted.after, 1), "fewer", "more"),
        _bars(counted.before, counted.after, count_text),
        tag("p", other, class_="fine") if other else None,
    )


def _from_to(pair: BeforeAfter, text: Callable[[float], str] = count_text) -> str:
    return text(pair.after) if pair.before == pair.after else f"{text(pair.before)} → {text(pair.after)}"


TILES: tuple[Callable[[Record], Markup | None], ...] = (_size_tile, _metric_tile, _latency_tile, _work_tile)


def limit_words(limit: Limit, record: Record) -> tuple[str, Callable[[float], str]]:
    """What a limit is about, and how its values are written."""
    words: dict[str, tuple[str, Callable[[float], str]]] = {
        "max_drop": (
            f"{record.metric.name} lost",
            lambda value: "nothing" if value <= 0 else spread_text(value, record.metric.unit),
        ),
        "max_size": (f"size of {SHIPPED[record.ship]}", byte_text),
        "max_latency": ("latency of one call", ms_text),
    }
    return words.get(limit.name, (limit.name, lambda value: f"{value:g}"))


def _verdicts(record: Record) -> Markup | None:
    judged = [limit for limit in record.limits if limit.name != "max_time"]  # it bounds the search, not what was found
    if not judged:
        return None
    rows = []
    for limit in judged:
        subject, text = limit_words(limit, record)
        measured = "not measured" if limit.measured is None else text(limit.measured)
        undecided = limit.name == "max_drop" and record.metric.undecided
        kind, sign, word = ("met", "✓", "met") if limit.met else ("missed", "✗", "not met")
        rows.append(
            tag(
                "li",
                tag("span", sign, class_="sign", aria_hidden="true"),
                tag("span", tag("b", f"Limit {word}"), f": {subject} {measured}, at most {text(limit.limit)}"),
                tag("span", " (undecided by this data)", class_="warning") if undecided else None,
                class_=kind,
            )
        )
    return tag("ul", rows, class_="verdicts")
