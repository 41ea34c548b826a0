"""The table [kill]: kill -9 of compress at instants uniform over the run, resumed to the same bytes.

A warm parent (torch and lissom imported, kernels compiled) forks a child for each run, so that a run takes a second or
three and every instant of it is lissom's own work. Three jobs take turns: a recipe that trains, prunes and shares; one
that trains and runs in integers; and a search. A killed run survives where the same call, made again, ends by itself
with the files that an undisturbed run writes, byte by byte (in result.json, all but what a clock or the machine says),
and leaves nothing else behind.

python bench/kill.py               # 1,000 kills, about two hours; resumes
python bench/kill.py --kills 100
python bench/kill.py --quick       # 4 kills
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness import Bench, arguments
from lissom import Deploy, Distill, Finetune, Network, PolynomialDecay, PruneWeights, QuantizeWeights, Recipe, ShareWeights
from lissom.compress import compress

BLOCK = 20
SHIPPED = ("model.onnx", "model.lissom", "model.safetensors", "recipe.yaml")
OF_THE_CLOCK = {"seconds", "latency", "latency_ms", "ms_before", "ms_after", "peak_memory", "measured", "met", "machine"}
"""Fields of result.json, at any depth, that two undisturbed runs do not share either."""

DECAY = PolynomialDecay(final=0.8, begin=0.0, end=0.7)
JOBS: dict[str, dict[str, Any]] = {
    "recipe": {
        "recipe": Recipe((
            Finetune(epochs=6, during=PruneWeights(schedule=DECAY), distill=Distill()),
            ShareWeights(bits=3),
            Finetune(epochs=4, learning_rate=1e-4, patience=2),
        ))
    },
    "int8": {
        "recipe": Recipe(
            (QuantizeWeights(bits=8), Finetune(epochs=6)),
            Deploy(precision="int8", types="U8S8", ranges="minmax", target="onnxruntime-cpu"),
        )
    },
    "search": {"goal": "size", "max_drop": 0.05},
}  # fmt: skip
TURNS = ("recipe", "int8") * 5 + ("search",)


def network() -> Network:
    """A convolution, a batch-norm and two layers, with seeded weights."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    return Network(module, (torch.zeros(2, 1, 8, 8),))


def data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Points about one centre for each of four classes."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    images = random.normal(size=(4, 1, 8, 8))[labels] + random.normal(size=(300, 1, 8, 8))
    return images.astype(np.float32), labels


def work(job: str, out: Path) -> None:
    """The run that is killed."""
    torch.set_num_threads(1)
    compress(network(), data(), out=out, **JOBS[job])


@dataclass
class Child:
    """A forked run: what it says goes to a file, and it never returns into the parent's code."""

    log: Path
    pid: int = 0

    def start(self, call: Callable[[], None]) -> Child:
        """Fork, and run ``call`` in the child."""
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            with contextlib.suppress(BaseException), self.log.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                try:
                    call()
                    code = 0
                except BaseException:  # noqa: BLE001 - the parent reads the trace
                    traceback.print_exc(file=file)
            os._exit(code)
        return self

    def wait(self) -> int:
        """The exit code, or minus the signal."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def run_once(job: str, folder: Path) -> float:
    """Seconds of an undisturbed run in a forked child."""
    started = time.perf_counter()
    child = Child(folder.with_suffix(".log")).start(lambda: work(job, folder))
    if child.wait() != 0:
        raise SystemExit(f"the undisturbed run of {job} failed:\n{child.log.read_text()}")
    return time.perf_counter() - started


def kill_once(job: str, folder: Path, after: float) -> bool:
    """Start a run and kill it; False where it had ended by itself."""
    child = Child(folder.with_suffix(".log")).start(lambda: work(job, folder))
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    return child.wait() == -signal.SIGKILL


def difference(expected: Path, got: Path) -> str:
    """What two finished folders differ in; empty where they are the same."""
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (expected, got)]
    if names[0] != names[1]:
        return f"files {sorted(names[0] ^ names[1])}"
    for name in SHIPPED:
        if (expected / name).read_bytes() != (got / name).read_bytes():
            return f"the bytes of {name}"
    records = [_timeless(json.loads((folder / "result.json").read_text())) for folder in (expected, got)]
    if records[0] != records[1]:
        return "result.json: " + ", ".join(name for name in records[0] if records[0][name] != records[1].get(name))
    return "" if (got / "report.html").read_text().rstrip().endswith("</html>") else "report.html"


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(part) for name, part in value.items() if name not in OF_THE_CLOCK}
    return [_timeless(part) for part in value] if isinstance(value, list) else value


def trials(references: dict[str, Path], turns: Sequence[str], seed: int, count: int, seconds: dict[str, float]) -> dict[str, Any]:
    """``count`` kills, each resumed and compared.

    An instant that comes after the run has ended is no kill, and is drawn again: so the kills are uniform over the run,
    whatever else the machine does.
    """
    random = np.random.default_rng(seed)
    shares, failures = [], []
    with tempfile.TemporaryDirectory() as work_in:
        while len(shares) < count:
            job = turns[len(shares) % len(turns)]
            folder = Path(work_in, f"{len(shares)}-{random.integers(2**31)}")
            after = float(random.uniform(0, seconds[job]))
            if not kill_once(job, folder, after):
                continue
            shares.append(round(after / seconds[job], 4))
            resumed = Child(folder.with_suffix(".log")).start(lambda job=job, folder=folder: work(job, folder))
            code = resumed.wait()
            wrong = f"exit {code}: {resumed.log.read_text()[-2000:]}" if code else difference(references[job], folder)
            if wrong:
                failures.append({"job": job, "after_seconds": after, "wrong": wrong})
                print(f"FAILED {failures[-1]}", flush=True)
    return {"kills": count, "survived": count - len(failures), "failures": failures, "instants": shares}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Kills survived since the last failure."""
    run = 0
    for row in rows:
        run = run + row["survived"] if not row["failures"] else 0
    return {"consecutive_survivals": run}


def main() -> None:
    """Run the bench."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--afresh", action="store_true", help="forget the rows so far: the code has changed")
    options = parser.parse_args()
    bench = Bench("kill", figures, quick=options.quick)
    if options.afresh:
        bench.rows, bench.seconds = [], 0.0
    with tempfile.TemporaryDirectory() as kept:
        references, seconds = {}, {}
        turns = TURNS[:2] if options.quick else TURNS
        for job in dict.fromkeys(turns):
            references[job] = Path(kept, job)
            work(job, Path(kept, f"warm-{job}"))  # in the parent: what this loads, the children need not
            taken = [run_once(job, references[job]), run_once(job, Path(kept, f"{job}-0"))]
            wrong = difference(references[job], Path(kept, f"{job}-0"))
            if wrong:
                sys.exit(f"two undisturbed runs of {job} differ: {wrong}")
            seconds[job] = statistics.mean(taken)
        print({job: round(value, 2) for job, value in seconds.items()}, flush=True)
        size = 4 if options.quick else BLOCK
        for block in range(1 if options.quick else -(-options.kills // BLOCK)):
            bench.row({"seed": block}, lambda block=block: trials(references, turns, block, size, seconds))
    print(bench.save())
    if any(row["failures"] for row in bench.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
