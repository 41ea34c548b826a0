"""The page: a record as one self-contained HTML document."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from lissom.report.evidence import measured, notes, recipe
from lissom.report.headline import claim, headline
from lissom.report.layers import layers, weights
from lissom.report.markup import Markup, tag
from lissom.report.record import Record
from lissom.report.trials import trials
from lissom.report.wording import shortened

__all__ = ["render"]

SECTIONS: tuple[Callable[[Record], Markup | None], ...] = (trials, layers, weights, notes, recipe, measured)
"""The sections in reading order; one that has nothing to say is left out."""

# Even if some text slipped through unescaped, no script would run and nothing would be fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def render(record: Record) -> str:
    """The report of ``record``: one HTML document that needs nothing else, neither the network nor a script.

    Long lists are cut to what fits in 1.5 MB, and the page says so; the cut parts are in result.json.
    """
    style = Markup(resources.files("lissom.report").joinpath("page.css").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{shortened(record.model)}: {claim(record)}"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("style", style),
    )
    version = record.versions.get("lissom", "")
    footer = tag(
        "footer", f"{f'Written by lissom {version}'.strip()}. Every figure on this page is also in result.json, in full."
    )
    body = tag("body", tag("main", headline(record), [section(record) for section in SECTIONS]), footer)
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
