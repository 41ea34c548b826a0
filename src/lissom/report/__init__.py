"""A result's content as one HTML page that opens offline."""

from lissom.report.evidence import recipe_yaml
from lissom.report.headline import claim
from lissom.report.page import render
from lissom.report.wording import byte_text

__all__ = ["byte_text", "claim", "recipe_yaml", "render"]
