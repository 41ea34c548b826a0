"""What the commands share: progress with time left, errors as one sentence with their exit code, tables, JSON."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from lissom.errors import LissomError

__all__ = ["Bars", "out", "print_json", "progress_for", "reported", "table"]

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")


class _Bar:
    """One line of progress; it shows itself once two seconds have passed, so that quick work stays quiet."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task, self.started = progress, task, time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count ``amount`` more as done."""
        self.progress.advance(self.task, amount)
        if note:
            self.progress.update(self.task, note=note)
        if time.monotonic() - self.started > 2:
            self.progress.update(self.task, visible=True)


class Bars:
    """Progress as bars on standard error, with the time left; finished work leaves no line behind."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[_Bar]:
        """One bar for as long as the block runs."""
        task = self.progress.add_task(description, total=total, note="", visible=False)
        try:
            yield _Bar(self.progress, task)
        finally:
            self.progress.remove_task(task)

    def say(self, message: str) -> None:
        """One line that stays."""
        self.progress.console.print(message)


@contextmanager
def progress_for(*, quiet: bool) -> Iterator[Bars | None]:
    """Progress on standard error; None where the user wants quiet."""
    if quiet:
        yield None
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield Bars(progress)


def reported(command: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """End a command with one sentence and its exit code, where it ends with an error."""

    @functools.wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        try:
            return command(*args, **kwargs)
        except LissomError as error:
            err.print(f"[bold red]lissom:[/] {_escaped(str(error))}", soft_wrap=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            err.print("interrupted; the same command resumes where it stopped")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output (head, less) has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            told = f"the machine refused: {error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
            err.print(f"[bold red]lissom:[/] {_escaped(told)}", soft_wrap=True)
            raise typer.Exit(1) from None

    return run


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    out.print_json(json.dumps(value, allow_nan=False)) if out.is_terminal else sys.stdout.write(
        json.dumps(value, allow_nan=False) + "\n"
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on standard output; every column but the first is aligned to the right."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(_escaped(str(cell)) for cell in row))
    out.print(grid)
