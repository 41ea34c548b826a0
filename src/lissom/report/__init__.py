"""A result's content as one HTML page that opens offline."""

from lissom.report.evidence import recipe_yaml
from lissom.report.page import render

__all__ = ["recipe_yaml", "render"]
