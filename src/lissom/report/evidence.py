"""What was left alone, the recipe to copy, and how each figure was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lissom.report.headline import SHIPPED
from lissom.report.markup import Child, Markup, tag
from lissom.report.record import Record
from lissom.report.wording import (
    byte_text,
    capitalised,
    ms_text,
    percent_text,
    samples_text,
    seconds_text,
    shortened,
    spread_text,
    times_text,
)

__all__ = ["measured", "notes", "recipe", "recipe_yaml"]

MOST_NOTES = 200
MOST_YAML = 50_000
PROFILE_WORDS = (
    "From ONNX Runtime's own profile, one sample, one thread: the mean of the faster half of 40 calls. A layer's time holds what "
    "follows it up to the next layer; what the runtime adds of its own belongs to none."
)
MEMORY_WORDS = (
    "What opening model.onnx in ONNX Runtime and running it on one sample adds to a fresh process, at its peak, as the system "
    "counts it; the original's file was measured in the same way."
)


def notes(record: Record) -> Markup | None:
    """What was refused or left alone, and why; None where there is nothing to say."""
    if not record.notes:
        return None
    left = len(record.notes) - MOST_NOTES
    return tag(
        "section",
        tag("h2", "Refused or left alone"),
        tag("ul", [tag("li", shortened(note, 500)) for note in record.notes[:MOST_NOTES]], class_="notes"),
        tag("p", f"{left} more are in result.json.", class_="fine") if left > 0 else None,
        id="notes",
    )


def recipe_yaml(record: Record) -> str:
    """The recipe that won, as YAML to keep and run again."""
    text: str = yaml.safe_dump(dict(record.recipe), sort_keys=False)
    return text


def recipe(record: Record) -> Markup:
    """The recipe and the command, each selected whole by one click."""
    text = recipe_yaml(record)
    long = len(text) > MOST_YAML
    return tag(
        "section",
        tag("h2", "The recipe"),
        tag("p", "The same text is in recipe.yaml; one click selects it all.", class_="fine"),
        tag("pre", tag("code", "The recipe is too long for this page: see recipe.yaml." if long else text), tabindex="0"),
        [tag("p", "The command that makes this result:"), tag("pre", tag("code", shortened(record.command, 5000)), tabindex="0")]
        if record.command
        else None,
        id="recipe",
    )


def measured(record: Record) -> Markup:
    """How each figure was measured, and on what."""
    entries: list[tuple[str, Child]] = [
        (capitalised(record.metric.name), _metric_words(record)),
        ("Size", _size_words(record)),
        ("Latency", _latency_table(record)),
        ("Time by layer", PROFILE_WORDS if any(layer.ms_after is not None for layer in record.layers) else None),
        ("Memory", None if record.peak_memory is None else MEMORY_WORDS),
        ("Parity", _parity_table(record)),
        ("Run", _run_words(record)),
        ("Machine", _facts(record.machine)),
        ("Versions", _facts(record.versions)),
    ]
    listed = [[tag("dt", term), tag("dd", words)] for term, words in entries if words]
    return tag("section", tag("h2", "How each figure was measured"), tag("dl", listed), id="measured")


def _metric_words(record: Record) -> str:
    metric = record.metric
    words = f"On the {metric.split} split, {samples_text(metric.n)}, by running the file that ships. Nothing was chosen by them. "
    if metric.standard_error is None:
        return words + "The uncertainty of the drop is not known."
    spread = spread_text(metric.standard_error, metric.unit)
    return words + f"The drop compares both networks sample by sample; its paired standard error is {spread}."


def _size_words(record: Record) -> list[Child]:
    sizes = (("what came in", record.bytes.source), ("model.onnx", record.bytes.onnx))
    archives = (("model.lissom", record.bytes.archive), ("weights-only archive", record.bytes.weights_only))
    rows = [[name, f"{size:,}", byte_text(size)] for name, size in sizes + archives if size is not None]
    words = f"Bytes of the files as written; the one that ships is {SHIPPED[record.ship]}. "
    if record.ratio is not None:
        words += (
            f"The weights' own ratio, {times_text(record.ratio)}, is the float32 bytes of all floating tensors "
            "over the bytes of the weights-only archive."
        )
    return [tag("p", words), _table(["File", "Bytes", ""], rows)]


def _latency_table(record: Record) -> Child:
    if not record.latency:
        return "Not measured."
    rows = [
        [
            entry.runtime,
            str(entry.threads),
            str(entry.batch),
            f"{ms_text(entry.before_ms.p10)} → {ms_text(entry.after_ms.p10)}",
            f"{ms_text(entry.before_ms.p50)} → {ms_text(entry.after_ms.p50)}",
            times_text(entry.ratio),
            f"{entry.runs:,}",
        ]
        for entry in record.latency
    ]
    head = ["Runtime", "Threads", "Batch", "10th percentile", "Median", "Ratio", "Calls"]
    words = "Before and after in turns of four calls, after a warm-up. The ratio compares 10th percentiles. "
    unstable = [entry.runtime for entry in record.latency if not entry.stable]
    words += (
        f"Two halves of the calls differed by more than 5 % in {', '.join(unstable)}, or other work had the CPU: "
        "take that figure with care. "
        if unstable
        else "Two halves of the calls agreed within 5 %. "
    )
    cpus = sorted({entry.cpu for entry in record.latency})
    return [tag("p", f"{words}CPU: {', '.join(cpus)}."), _table(head, rows)]


def _parity_table(record: Record) -> Child:
    if not record.parity:
        return "Not measured."
    rows = [
        [
            entry.runtime,
            entry.kind,
            "–" if entry.max_relative is None else f"{entry.max_relative:.1e}".replace("-", "−"),
            "–" if entry.cosine is None else f"{entry.cosine:.6f}",
            "–" if entry.agreement is None else percent_text(entry.agreement, 2),
            f"{entry.n:,}",
        ]
        for entry in record.parity
    ]
    head = ["Runtime", "Kind", "Largest relative difference", "Cosine", "Agreement", "Inputs"]
    words = (
        "The written file was run on real inputs and compared with the network that it was made from before it was handed over."
    )
    return [tag("p", words), _table(head, rows)]


def _run_words(record: Record) -> str:
    goal = {"size": "the smallest file", "latency": "the fastest file"}[record.goal]
    tried = f" {len(record.trials)} trials." if record.trials else ""
    given = next(
        (f", with {seconds_text(limit.limit)} given to search" for limit in record.limits if limit.name == "max_time"), ""
    )
    took = f"The whole job took {seconds_text(record.seconds)}{given}."
    return f"Goal: {goal} within the limits. Seed {record.seed}.{tried} {took}"


def _facts(facts: Mapping[str, Any]) -> Markup | None:
    rows = []
    for name, value in facts.items():
        counted = name.endswith("_bytes") and isinstance(value, int)
        words = byte_text(value) if counted else _plain(value)
        rows.append([name.removesuffix("_bytes").replace("_", " "), words])
    return _table([], rows, numeric=False) if rows else None


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = True) -> Markup:
    """A plain table: the first column names the row, the others hold figures aligned to the right."""
    heads = [tag("th", word, scope="col", class_="n" if index and numeric else None) for index, word in enumerate(head)]
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell, class_="n" if numeric else None) for cell in row[1:]])
        for row in rows
    ]
    table = tag("table", tag("thead", tag("tr", heads)) if head else None, tag("tbody", body), class_="plain")
    return tag("div", table, class_="scroll", tabindex="0")
