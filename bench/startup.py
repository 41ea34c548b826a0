"""[startup]: how long ``lissom --help`` and ``make demo`` take, as whole processes.

python bench/startup.py            # about two minutes
python bench/startup.py --quick    # help only
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import ROOT, Bench, arguments


def seconds_of(command: list[str], **options: Any) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **options)
    return time.perf_counter() - started


def help_seconds() -> dict[str, Any]:
    lissom = str(Path(sys.executable).with_name("lissom"))
    seconds_of([lissom, "--help"])  # the first call after installation compiles the files
    runs = [seconds_of([lissom, "--help"]) for _ in range(5)]
    return {"median": statistics.median(runs), "runs": [round(run, 4) for run in runs]}


def demo_seconds() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        run = seconds_of([str(Path(sys.executable).with_name("lissom")), "demo"], cwd=folder)
    return {"median": run, "runs": [round(run, 1)]}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    medians = {row["what"]: row["median"] for row in rows}
    return {"help_seconds": medians.get("help"), "demo_seconds": medians.get("demo")}


def main() -> None:
    quick = arguments(__doc__ or "").parse_args().quick
    bench = Bench("startup", figures, quick=quick)
    bench.forget(lambda _: True)  # a timing of another day says nothing about the code of today
    bench.row({"what": "help"}, help_seconds)
    if not quick:
        bench.row({"what": "demo"}, demo_seconds)
    print(bench.save())


if __name__ == "__main__":
    main()
