"""A result's content as one HTML page that opens offline."""

from lissom.report.page import recipe_yaml, render

__all__ = ["recipe_yaml", "render"]
