"""The trials: the metric of every candidate against size and latency, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lissom.report.headline import SHIPPED
from lissom.report.markup import Markup, tag
from lissom.report.record import Record, Trial
from lissom.report.scatter import SHAPES, Mark, scatter
from lissom.report.wording import byte_text, capitalised, change_text, ms_text, seconds_text, shortened, value_text

__all__ = ["MOST_TRIALS", "trials"]

MOST_TRIALS = 300
"""Rows and marks that the page holds at most, so that it stays small; result.json has them all."""

LEGEND = {
    "chosen": "chosen",
    "candidate": "within the limits, another was better",
    "refused": "refused",
    "original": "the original",
    "outside": "worse than the plot shows",
}


def trials(record: Record) -> Markup | None:
    """The section, or None where nothing was tried."""
    if not record.trials:
        return None
    shown = _shown(record.trials)
    plots = [plot for plot in (_size_plot(record, shown), _latency_plot(record, shown)) if plot]
    left = len(record.trials) - len(shown)
    return tag(
        "section",
        tag("h2", "What was tried"),
        tag(
            "p",
            f"{len(record.trials)} candidates, compared on the validation split: the figures above are measured on samples that "
            "no choice was made by.",
        ),
        tag("div", plots, class_="plots") if plots else None,
        _legend(plots) if plots else None,
        tag("div", _table(record, shown), class_="scroll", tabindex="0"),
        tag("p", f"{left} more trials are in result.json.", class_="fine") if left else None,
        id="trials",
    )


def _shown(tried: Sequence[Trial]) -> list[Trial]:
    """The first trials up to the cap, and the chosen one in any case."""
    chosen = [trial for trial in tried[MOST_TRIALS:] if trial.kept]
    return [*tried[: MOST_TRIALS - len(chosen)], *chosen]


def _worse_by(value: float, drop: float, record: Record) -> float:
    """The metric that is ``drop`` worse than ``value``; a negative drop goes the other way."""
    change = drop * (1.0 if record.metric.unit == "share" else abs(value))
    return value - change if record.metric.higher_is_better else value + change


def _original_metric(record: Record) -> float | None:
    """The original network's metric on the validation split, from a trial's metric and what it lost."""
    known = [trial for trial in record.trials if trial.metric is not None and trial.drop is not None]
    best = min(known, key=lambda trial: abs(trial.drop or 0.0), default=None)
    if best is None or best.metric is None or best.drop is None:
        return None
    if record.metric.unit == "share":
        return _worse_by(best.metric, -best.drop, record)
    kept = 1 - best.drop if record.metric.higher_is_better else 1 + best.drop
    return best.metric / kept if kept > 0 else None


def _limit(record: Record, name: str) -> float | None:
    return next((limit.limit for limit in record.limits if limit.name == name), None)


def _size_plot(record: Record, shown: Sequence[Trial]) -> Markup | None:
    marks = _marks(record, shown, lambda trial: trial.bytes, record.bytes.source, byte_text)
    return _plot(record, marks, "size", f"bytes of {SHIPPED[record.ship]}", byte_text, _limit(record, "max_size"))


def _latency_plot(record: Record, shown: Sequence[Trial]) -> Markup | None:
    before = record.latency[0].before_ms.p10 if record.latency else None
    marks = _marks(record, shown, lambda trial: trial.latency_ms, before, ms_text)
    return _plot(record, marks, "latency", "time of one call", ms_text, _limit(record, "max_latency"))


def _kind(trial: Trial) -> str:
    return "chosen" if trial.kept else "refused" if trial.refused_because else "candidate"


def _marks(
    record: Record,
    shown: Sequence[Trial],
    cost: Callable[[Trial], float | None],
    original_cost: float | None,
    cost_text: Callable[[float], str],
) -> list[Mark]:
    marks = []
    for trial in shown:
        x = cost(trial)
        if x and trial.metric is not None:
            value = value_text(trial.metric, record.metric.unit)
            because = f": {trial.refused_because}" if trial.refused_because else ""
            title = f"{trial.name}: {trial.recipe or 'no change'}. {value}, {cost_text(x)}. {_outcome(trial)}{because}"
            marks.append(Mark(x, trial.metric, _kind(trial), shortened(title)))
    original = _original_metric(record)
    if marks and original is not None and original_cost:
        title = f"the original: {value_text(original, record.metric.unit)}, {cost_text(original_cost)}"
        marks.append(Mark(original_cost, original, "original", title))
    return marks


def _plot(
    record: Record, marks: Sequence[Mark], cost: str, x_label: str, x_text: Callable[[float], str], x_limit: float | None
) -> Markup | None:
    if not marks:
        return None
    metric, original, allowed = record.metric, _original_metric(record), _limit(record, "max_drop")
    y_limit = None if original is None or allowed is None else _worse_by(original, allowed, record)
    drawn = scatter(
        marks,
        description=f"{metric.name} against {cost} for {len(marks)} networks",
        x_label=x_label,
        x_text=x_text,
        y_text=partial(value_text, unit=metric.unit) if metric.unit != "share" else lambda value: f"{value * 100:g} %",
        y_range=_readable_range(marks, original, y_limit),
        x_limit=x_limit,
        y_limit=y_limit,
        higher_is_better=metric.higher_is_better,
    )
    aside = "on validation" if metric.higher_is_better else "on validation, lower is better"
    caption = tag("figcaption", f"{capitalised(metric.name)} against {cost} ", tag("small", aside))
    return tag("figure", caption, drawn)


def _readable_range(marks: Sequence[Mark], original: float | None, y_limit: float | None) -> tuple[float, float] | None:
    """From the original to a few times the allowed drop: one ruined candidate must not flatten all the others."""
    if original is None or y_limit is None or original == y_limit:
        return None
    reach = 2 * abs(original - y_limit)
    must_show = [original, y_limit, *(mark.y for mark in marks if mark.kind == "chosen")]
    return min(must_show) - reach, max(must_show) + reach


def _legend(plots: Sequence[Markup]) -> Markup:
    sign = {"refused": 'class="cross"', "outside": 'class="outside"'}  # a refused mark beyond the edge is drawn as outside
    present = [kind for kind in LEGEND if any(sign.get(kind, f'class="mark {kind}"') in plot for plot in plots)]
    return tag("ul", [tag("li", _legend_mark(kind), LEGEND[kind]) for kind in present], class_="legend")


def _legend_mark(kind: str) -> Markup:
    shape = SHAPES[kind](12, 12) if kind in SHAPES else [tag("path", d="M7 8h10l-5 8z", class_="outside")]
    return tag("svg", tag("g", shape, class_=f"mark {kind}"), viewBox="0 0 24 24", width=20, height=20, aria_hidden="true")


def _outcome(trial: Trial) -> str:
    kind = _kind(trial)
    if kind == "candidate" and trial.front:
        return "on the front: none is smaller and better"
    return {"chosen": "chosen", "refused": "refused", "candidate": "not the best"}[kind]


def _table(record: Record, shown: Sequence[Trial]) -> Markup:
    unit, higher = record.metric.unit, record.metric.higher_is_better
    texts: dict[str, Callable[[Trial], str]] = {
        "Trial": lambda trial: trial.name,
        "Recipe": lambda trial: trial.recipe,
        capitalised(record.metric.name): lambda trial: "" if trial.metric is None else value_text(trial.metric, unit),
        "Change": lambda trial: "" if trial.drop is None else change_text(trial.drop, unit, higher),
        "Size": lambda trial: "" if trial.bytes is None else byte_text(trial.bytes),
        "Latency": lambda trial: "" if trial.latency_ms is None else ms_text(trial.latency_ms),
        "Took": lambda trial: seconds_text(trial.seconds) if trial.seconds else "",
        "Outcome": lambda trial: f"{_outcome(trial)}: {trial.refused_because}" if trial.refused_because else _outcome(trial),
    }
    used = [heading for heading, text in texts.items() if any(map(text, shown))]
    style = {heading: {"Trial": "name", "Recipe": "steps", "Outcome": "outcome"}.get(heading, "n") for heading in used}
    rows = [
        tag("tr", [tag("td", shortened(texts[heading](trial)), class_=style[heading]) for heading in used], class_=_kind(trial))
        for trial in shown
    ]
    heads = [tag("th", heading, scope="col", class_=style[heading]) for heading in used]
    return tag("table", tag("thead", tag("tr", heads)), tag("tbody", rows), class_="trials")
