"""Workspace: the folder that a run works in, so that a killed run resumes and two runs never mix.

``OUT/.lissom-job/`` holds ``job.json`` (the fingerprint of inputs, options and versions), a lock that dies with the
process, and one folder for each trial. The same fingerprint resumes; another, or files that no run of lissom wrote,
are refused.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lissom.errors import LissomError, OutputOccupied
from lissom.files import exclusive, sweep, write_json

__all__ = ["Workspace", "open_workspace"]


@dataclass(frozen=True)
class Workspace:
    """Where one run keeps its work in progress.

    Args:
        out: The folder that the result goes to.
    """

    out: Path

    @property
    def root(self) -> Path:
        """The folder of the work in progress."""
        return self.out / ".lissom-job"

    @property
    def finished(self) -> bool:
        """Whether the result is complete: ``result.json`` is written last."""
        return (self.out / "result.json").is_file()

    def trial(self, name: str) -> Path:
        """The folder of one trial, made if it is not there."""
        folder = self.root / "trials" / re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LissomError(f"cannot make the folder {folder}: {error.strerror}") from error
        return folder

    def clean(self) -> None:
        """Remove the trials of a finished run; the fingerprint stays."""
        shutil.rmtree(self.root / "trials", ignore_errors=True)


@contextmanager
def open_workspace(out: Path, fingerprint: str, *, force: bool = False) -> Iterator[Workspace]:
    """Hold ``out`` for one run.

    Args:
        out: The folder that the result goes to.
        fingerprint: Of everything that the result depends on.
        force: Start again where another run's work, or other files, stand.

    Raises:
        OutputOccupied: another process works there, or other work or foreign files stand there and ``force`` is False.
    """
    workspace = Workspace(out)
    if out.exists() and not out.is_dir():
        raise OutputOccupied(f"--out {out} is a file: name a folder")
    before = _stands(workspace)
    if before not in (None, fingerprint) and not force:
        raise OutputOccupied(f"--out {out} holds {_what(before)}: choose another folder, or add --force to replace it")
    with exclusive(workspace.root / "lock"):
        if _stands(workspace) != before:
            raise OutputOccupied(f"another lissom run has just written to {out}: run the command again, or choose another --out")
        if before not in (None, fingerprint) or (force and workspace.finished):
            workspace.clean()
            (out / "result.json").unlink(missing_ok=True)
        sweep(out)
        sweep(workspace.root)
        write_json(workspace.root / "job.json", {"fingerprint": fingerprint})
        yield workspace


def _stands(workspace: Workspace) -> str | None:
    """The fingerprint that ``out`` holds; ``""`` for foreign files, None where nothing stands."""
    job = workspace.root / "job.json"
    if job.is_file():
        try:
            return str(json.loads(job.read_text(encoding="utf-8"))["fingerprint"])
        except (ValueError, KeyError, TypeError):
            return ""
    others = [path for path in workspace.out.iterdir() if path != workspace.root] if workspace.out.exists() else []
    return "" if others else None


def _what(fingerprint: str | None) -> str:
    return "files that lissom did not write" if not fingerprint else "the work of a run with other inputs or options"
