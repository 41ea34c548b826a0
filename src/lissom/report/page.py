"""The page: a record as one self-contained HTML document."""

from __future__ import annotations

from html import escape

import yaml

from lissom.report.record import Record

__all__ = ["recipe_yaml", "render"]


def recipe_yaml(record: Record) -> str:
    """The recipe that won, as YAML to keep and run again."""
    text: str = yaml.safe_dump(dict(record.recipe), sort_keys=False, allow_unicode=True, width=100)
    return text


def render(record: Record) -> str:
    """The report of ``record``: one HTML document that needs nothing else to open."""
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(record.model)}</title><body></body></html>"
