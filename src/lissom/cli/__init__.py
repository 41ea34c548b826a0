"""The command ``lissom``: each of its commands is a thin shell over one function of the library."""

from lissom.cli.app import app, main

__all__ = ["app", "main"]
