"""Memory: what opening and running a file adds to a process, at its peak, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["peak_memory"]

SECONDS = 300
PROGRAM = """
import sys, numpy, onnxruntime
def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))
with numpy.load(sys.argv[2]) as kept:
    arrays = [kept[name] for name in kept]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = int(sys.argv[3]), 1, 4
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # the peak starts anew
before = kilobytes("VmRSS:")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
given = {}
for value, array in zip(session.get_inputs(), arrays):
    fixed = value.shape[0] if value.shape and isinstance(value.shape[0], int) else len(array)
    given[value.name] = numpy.resize(array, (fixed, *array.shape[1:]))
for _ in range(3):
    session.run(None, given)
print(1024 * max(0, kilobytes("VmHWM:") - before))
"""


def peak_memory(file: Path, inputs: Sequence[npt.NDArray[Any]], *, threads: int = 1) -> int | None:
    """Bytes that opening a file in ONNX Runtime and running it adds at the peak; None where the system cannot say.

    Args:
        file: An ONNX file.
        inputs: One array per input, the batch first.
        threads: How many threads a call may use.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "inputs.npz")
        np.savez(kept, *inputs)
        command = [sys.executable, "-c", PROGRAM, str(file), str(kept), str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
        except (subprocess.SubprocessError, OSError):
            return None  # a figure fewer is no reason to lose the others
    return int(done.stdout)
