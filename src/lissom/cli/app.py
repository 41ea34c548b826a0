"""The application: its commands by name. Nothing heavy is imported until a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lissom.cli import archives, compressing, looking, measuring
from lissom.cli.console import out

__all__ = ["app", "main"]

app = typer.Typer(
    name="lissom",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make trained neural networks small and fast, with the evidence measured on the file you get.",
    epilog="Start with  [bold]lissom demo[/]  or  [bold]lissom compress model.onnx --data val.npz --max-drop 1% --out small/[/]",
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"lissom {version('lissom')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options that stand before the command."""


for register in (compressing.register, looking.register, measuring.register, archives.register):
    register(app)


def main() -> None:
    """Run the command line."""
    app()
