"""The layers: bytes, time, work and sparsity of each, before and after, and the histograms of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lissom.report.markup import Child, Markup, tag
from lissom.report.record import Histogram, Layer, Record
from lissom.report.wording import byte_text, count_text, ms_text, percent_text, shortened

__all__ = ["MOST_HISTOGRAMS", "MOST_LAYERS", "layers", "weights"]

MOST_LAYERS = 300
"""Rows that the table holds at most: the layers with most bytes; result.json has them all."""

MOST_HISTOGRAMS = 24
"""How many layers' weights are drawn: those with most bytes."""


@dataclass(frozen=True)
class Column:
    """One column of the table: its heading, what it shows of a layer, and whether it has anything to show."""

    heading: str
    cell: Callable[[Layer, float], Child]
    value: Callable[[Layer], float | None]
    numeric: bool = True


def _pair(before: float | None, after: float | None, most: float, text: Callable[[float], str]) -> Child:
    """Two values and, under them, two bars on the scale of the whole column."""
    if before is None and after is None:
        return "–"
    words = " → ".join(dict.fromkeys("?" if value is None else text(value) for value in (before, after)))  # equal ones once
    bars = [
        tag("rect", tag("title", f"{word}: {text(value)}"), y=y, width=max(value / most * 100, 0.4), height=5, class_=word)
        for word, value, y in (("before", before, 0), ("after", after, 7))
        if value is not None
    ]
    svg = tag("svg", bars, viewBox="0 0 100 12", preserveAspectRatio="none", class_="pair", aria_hidden="true")
    return [tag("span", words, class_="nowrap"), svg]


def _sparsity_cell(layer: Layer, _most: float) -> Child:
    share = percent_text(layer.sparsity)
    bar = tag("rect", tag("title", f"zeros: {share}"), width=max(layer.sparsity * 100, 0.4), height=5, class_="after")
    track = tag("rect", width=100, height=5, class_="track")
    svg = tag("svg", track, bar, viewBox="0 0 100 12", preserveAspectRatio="none", class_="pair", aria_hidden="true")
    return [tag("span", share, class_="nowrap"), svg]


COLUMNS = (
    Column(
        "Bytes",
        lambda layer, most: _pair(layer.bytes_before, layer.bytes_after, most, byte_text),
        lambda layer: max(layer.bytes_before, layer.bytes_after or 0),
    ),
    Column(
        "Time",
        lambda layer, most: _pair(layer.ms_before, layer.ms_after, most, ms_text),
        lambda layer: max(layer.ms_before or 0.0, layer.ms_after or 0.0) or None,
    ),
    Column(
        "MACs",
        lambda layer, most: _pair(layer.macs.before, layer.macs.after, most, count_text) if layer.macs else "–",
        lambda layer: max(layer.macs.before, layer.macs.after) or None if layer.macs else None,
    ),
    Column("Sparsity", _sparsity_cell, lambda layer: layer.sparsity or None),
    Column(
        "Bits",
        lambda layer, _most: "–" if layer.bits is None else f"{layer.bits:.1f}",
        lambda layer: layer.bits,
    ),
)


def layers(record: Record) -> Markup | None:
    """The section with the table, or None where no layer is known."""
    if not record.layers:
        return None
    shown = _largest(record.layers, MOST_LAYERS)
    columns = [(column, _most(column, record.layers)) for column in COLUMNS]
    used = [(column, most) for column, most in columns if most]
    heads = [tag("th", "Layer", scope="col"), *(tag("th", column.heading, scope="col", class_="n") for column, _ in used)]
    rows = [_row(layer, used) for layer in shown]
    left = len(record.layers) - len(shown)
    return tag(
        "section",
        tag("h2", "Layer by layer"),
        tag("p", "Each pair of bars is before (grey) and after (coloured), on one scale down the column.", class_="fine"),
        tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="layers"),
        tag("p", f"The {len(shown)} largest layers; {left} more are in result.json.", class_="fine") if left else None,
        id="layers",
    )


def _most(column: Column, all_layers: Sequence[Layer]) -> float:
    """The largest value of a column: its scale; 0 where the column has nothing to show."""
    return max((value for layer in all_layers if (value := column.value(layer)) is not None), default=0.0)


def _row(layer: Layer, used: Sequence[tuple[Column, float]]) -> Markup:
    shape = "×".join(map(str, layer.shape))
    parameters = count_text(layer.parameters.after)
    if layer.parameters.before != layer.parameters.after:
        parameters = f"{count_text(layer.parameters.before)} → {parameters}"
    name = tag(
        "th",
        tag("code", shortened(layer.name, 160)),
        tag("small", f"{shortened(layer.kind, 60)} {shape}, {parameters} parameters"),
        scope="row",
    )
    cells = [tag("td", column.cell(layer, most), class_="n", data_label=column.heading) for column, most in used]
    return tag("tr", name, cells)


def _largest(candidates: Sequence[Layer], most: int) -> list[Layer]:
    """The layers with most bytes, in the network's own order."""
    ranked = sorted(range(len(candidates)), key=lambda index: (-candidates[index].bytes_before, index))
    return [candidates[index] for index in sorted(ranked[:most])]


def weights(record: Record) -> Markup | None:
    """The section with the histograms, or None where there are none."""
    drawable = [layer for layer in record.layers if layer.histogram_before or layer.histogram_after]
    if not drawable:
        return None
    shown = _largest(drawable, MOST_HISTOGRAMS)
    which = f"the {len(shown)} largest layers" if len(shown) < len(drawable) else "every layer"
    return tag(
        "section",
        tag("h2", "Weights before and after"),
        tag(
            "p",
            f"Histograms of {which}: before above the line, after below it, each drawn to its own tallest bar. "
            "Zeros are counted apart, since one tall bar would hide the rest.",
            class_="fine",
        ),
        tag("div", [_histogram_card(layer) for layer in shown], class_="gallery"),
        id="weights",
    )


def _histogram_card(layer: Layer) -> Markup:
    known = [histogram for histogram in (layer.histogram_before, layer.histogram_after) if histogram]
    reach = known[0]
    sides = [
        tag("path", tag("title", f"{word}: {_counted(histogram)}"), d=_outline(histogram, up), class_=word)
        for word, histogram, up in (("before", layer.histogram_before, True), ("after", layer.histogram_after, False))
        if histogram
    ]
    labels = [
        tag("text", f"{value:.3g}".replace("-", "−"), x=x, y=118, text_anchor=anchor)
        for value, x, anchor in ((reach.low, 0, "start"), ((reach.low + reach.high) / 2, 120, "middle"), (reach.high, 240, "end"))
    ]
    drawing = tag("svg", sides, tag("line", x1=0, x2=240, y1=52, y2=52, class_="axis"), labels, viewBox="0 0 240 122", role="img")
    zeros = " → ".join(_zero_share(histogram) for histogram in (layer.histogram_before, layer.histogram_after) if histogram)
    return tag(
        "figure", tag("figcaption", tag("code", shortened(layer.name, 160))), drawing, tag("p", f"zeros {zeros}", class_="fine")
    )


def _counted(histogram: Histogram) -> str:
    return f"{count_text(sum(histogram.counts) + histogram.zeros)} weights, {count_text(histogram.zeros)} of them zero"


def _zero_share(histogram: Histogram) -> str:
    total = sum(histogram.counts) + histogram.zeros
    return percent_text(histogram.zeros / total) if total else "none left"


def _outline(histogram: Histogram, up: bool) -> str:
    """The path around the bars, growing up or down from the line in the middle."""
    tallest, width = max(histogram.counts, default=0) or 1, 240 / max(len(histogram.counts), 1)
    sign, parts = (-1 if up else 1), ["M0 52"]
    for index, count in enumerate(histogram.counts):
        y = 52 + sign * 48 * count / tallest
        parts.append(f"V{y:.1f}H{(index + 1) * width:.1f}")
    return "".join([*parts, "V52z"])
