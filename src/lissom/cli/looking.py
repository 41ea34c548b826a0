"""inspect and doctor: what is in a network, and what is on this machine."""

from __future__ import annotations

import typer

from lissom.cli import options
from lissom.cli.console import out, print_json, reported, table

__all__ = ["register"]


@reported
def inspect(
    model: options.Model,
    weights: options.Weights = None,
    preprocess: options.PreprocessName = None,
    shapes: options.Input = None,
    as_json: options.Json = False,
) -> None:
    """Show layers, parameters, MACs, and what can and cannot be made smaller."""
    from lissom.inspection import inspect as run

    found = run(model, weights=weights, preprocess=preprocess, input_shapes=shapes)
    if as_json:
        print_json(found.to_dict())
        return
    table(found.title, found.columns, found.rows)
    for line in found.notes:
        out.print(line, markup=False)


@reported
def doctor(as_json: options.Json = False) -> None:
    """Show versions, runtimes, instruction sets and threads, and what is missing with the command that installs it."""
    from lissom.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_dict())
        return
    for title, rows in diagnosis.sections():
        table(title, ("", "", ""), rows)


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command(epilog="Example:  lissom inspect examples.lenet:lenet5 --weights demo/lenet5.safetensors")(inspect)
    app.command()(doctor)
