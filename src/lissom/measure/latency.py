"""Latency: candidates called in turns in one run, compared by their 10th percentiles.

On a machine that does other work, ratios of medians move between runs far more than ratios of 10th percentiles, and
candidates timed one after the other see different machines; in turns they see the same one. A turn is a few calls: the
first finds the caches full of another candidate's weights, which whoever runs one file over and over never sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lissom.data import load_data
from lissom.errors import UsageError
from lissom.measure.machine import cpu_model
from lissom.network import Network
from lissom.runtimes import open_file
from lissom.runtimes.network import file_network

__all__ = ["Percentiles", "Timing", "bench", "compare", "time_in_turns"]

WARM_UP = 20
CALLS = 200
LEAST_SECONDS = 0.2  # of calls of each candidate: 200 calls of a tiny network are over before the clock settles
MOST_CALLS = 5000
TURN = 4
AGREE = 0.05
BUSY = 1.10  # wall time over CPU time of a call: above it, other work had the CPU in between
ATTEMPTS = 3


@dataclass(frozen=True)
class Percentiles:
    """Seconds of one call.

    Args:
        p10: The 10th percentile, which ratios compare.
        p50: The median.
        stable: Whether the two halves of the calls agree within 5 %, and no other work had the CPU in between.
        calls: How many calls were timed.
    """

    p10: float
    p50: float
    stable: bool
    calls: int

    @classmethod
    def of(cls, seconds: npt.NDArray[np.float64], busy: npt.NDArray[np.float64] | None = None) -> Percentiles:
        """The percentiles of these calls, in the order in which they were made.

        Args:
            seconds: Of each call.
            busy: Seconds that this process computed during each. A call longer than the scheduler's slice is interrupted
                every time on a busy machine: its halves agree, and both are wrong.
        """
        halves = [float(np.percentile(half, 10)) for half in np.array_split(seconds, 2)]
        p10 = float(np.percentile(seconds, 10))
        interrupted = busy is not None and p10 > BUSY * float(np.percentile(busy, 10))
        stable = abs(halves[0] - halves[1]) <= AGREE * min(halves) and not interrupted
        return cls(p10, float(np.median(seconds)), stable, len(seconds))


@dataclass(frozen=True)
class Timing:
    """Two files in one runtime, called in turns.

    Args:
        runtime: What ran them.
        threads: How many threads a call could use.
        batch: Samples in a call.
        before: The first file.
        after: The second.
        cpu: The CPU's model name.
    """

    runtime: str
    threads: int
    batch: int
    before: Percentiles
    after: Percentiles
    cpu: str

    @property
    def ratio(self) -> float:
        """How many times faster the second file is."""
        return self.before.p10 / self.after.p10

    @property
    def stable(self) -> bool:
        """Whether both measurements agree with themselves."""
        return self.before.stable and self.after.stable

    @property
    def calls(self) -> int:
        """Calls of each that were timed."""
        return self.before.calls


def time_in_turns(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    calls: int = CALLS,
    turn: int = TURN,
    advance: Callable[[float], None] | None = None,
) -> dict[str, Percentiles]:
    """Call the candidates in turns, and again (at most three times) while one is not stable.

    Args:
        candidates: What to call, by name.
        calls: How often at least each is called after the warm-up; tiny ones more often, for 0.2 seconds.
        turn: How often a candidate is called before the next one's turn comes; every call counts.
        advance: Told after each round what share of one attempt is done.

    >>> figures = time_in_turns({"sort": lambda: sorted(range(100)), "sum": lambda: sum(range(100))})
    >>> figures["sum"].p10 <= figures["sum"].p50
    True
    """
    slowest = max(_warm_up(call) for call in candidates.values())
    rounds = -(-max(calls, min(MOST_CALLS, round(LEAST_SECONDS / max(slowest, 1e-9)))) // turn)
    for _ in range(ATTEMPTS):
        seconds = {name: np.empty(rounds * turn) for name in candidates}
        busy = {name: np.empty(rounds * turn) for name in candidates}
        for number in range(rounds):
            for name, call in candidates.items():
                for place in range(number * turn, number * turn + turn):
                    working, started = time.process_time(), time.perf_counter()
                    call()
                    seconds[name][place] = time.perf_counter() - started
                    busy[name][place] = time.process_time() - working
            if advance is not None:
                advance(1 / rounds)
        figures = {name: Percentiles.of(values, busy[name]) for name, values in seconds.items()}
        if all(figure.stable for figure in figures.values()):
            break
    return figures


def _warm_up(call: Callable[[], Any]) -> float:
    """Seconds of one call, once caches are warm."""
    for _ in range(WARM_UP):
        started = time.perf_counter()
        call()
    return time.perf_counter() - started


def compare(
    before: Any,
    after: Any,
    inputs: Sequence[npt.NDArray[Any]],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    calls: int = CALLS,
) -> Timing:
    """Time two files in turns on the same inputs.

    Args:
        before: A path or bytes.
        after: The same.
        inputs: One array per input, the batch first.
        runtime: What runs them.
        threads: How many threads a call may use.
        calls: How often at least each is called.
    """
    sessions = {name: open_file(file, runtime, threads=threads) for name, file in (("before", before), ("after", after))}
    figures = time_in_turns({name: _calling(session, inputs) for name, session in sessions.items()}, calls=calls)
    return Timing(runtime, threads, len(inputs[0]), figures["before"], figures["after"], cpu_model())


def _calling(session: Callable[..., Any], inputs: Sequence[npt.NDArray[Any]]) -> Callable[[], Any]:
    return lambda: session(*inputs)


class _Shown(Protocol):
    def task(self, description: str, total: float) -> Any:
        """Show work of ``total`` units."""


def bench(
    files: Mapping[str, Path | bytes | Network],
    *,
    data: Any = None,
    runtimes: Sequence[str] = ("onnxruntime",),
    threads: int = 1,
    batch: int = 1,
    calls: int = CALLS,
    progress: _Shown | None = None,
) -> list[dict[str, Any]]:
    """Time files side by side, every one in every runtime, in turns.

    Args:
        files: By the name that the rows give them: ONNX files, the bytes of some, or networks, which run in torch.
        data: Real samples to run on; random ones otherwise.
        runtimes: Where files run: names of :data:`lissom.runtimes.RUNTIMES`.
        threads: How many threads a call may use.
        batch: Samples in a call.
        calls: How often at least each is called.
        progress: Where progress is shown.

    Returns:
        One row per file and runtime: ``file``, ``runtime``, ``threads``, ``batch``, ``bytes``, ``p10_ms``, ``p50_ms``,
        ``stable``, ``calls``, ``cpu``, and ``ratio``: how many times faster than the first row it is.

    Raises:
        UsageError: no file was given, or no runtime that runs them.
    """
    if not files:
        raise UsageError("nothing to time: name at least one file")
    candidates: dict[tuple[str, str], Callable[[], Any]] = {}
    for label, file in files.items():
        network = file if isinstance(file, Network) else file_network(file, threads=threads, name=label)
        inputs = _inputs(network, data, batch)
        for runtime in ("torch",) if isinstance(file, Network) else [name for name in runtimes if name != "torch"]:
            candidates[label, runtime] = _calling(open_file(file, runtime, threads=threads), inputs)
    if not candidates:
        raise UsageError(
            "no file runs in torch: files run in onnxruntime and openvino, and module:callable, .pt2 and .keras in torch"
        )
    shown = nullcontext() if progress is None else progress.task(f"timing {len(candidates)} candidates in turns", ATTEMPTS)
    named = {f"{label}\0{runtime}": call for (label, runtime), call in candidates.items()}
    with shown as task:
        figures = time_in_turns(named, calls=calls, advance=None if task is None else task.advance)
    first = next(iter(figures.values())).p10
    return [
        {
            "file": label,
            "runtime": runtime,
            "threads": threads,
            "batch": batch,
            "bytes": Path(label).stat().st_size if Path(label).is_file() else None,
            "p10_ms": figure.p10 * 1e3,
            "p50_ms": figure.p50 * 1e3,
            "ratio": first / figure.p10,
            "stable": figure.stable,
            "calls": figure.calls,
            "cpu": cpu_model(),
        }
        for (label, runtime), figure in zip(candidates, figures.values(), strict=True)
    ]


def _inputs(network: Network, data: Any, batch: int) -> tuple[npt.NDArray[Any], ...]:
    """Real samples where there is data, else random ones of the example inputs' shapes (integers stay as they are)."""
    if data is not None:
        tensors, _ = load_data(data, network).test.first(batch)
        return tuple(tensor.numpy() for tensor in tensors)
    random = np.random.default_rng(0)
    made = []
    for example in network.example_inputs:
        array = np.repeat(example[:1].numpy(), batch, axis=0)
        made.append(random.standard_normal(array.shape).astype(array.dtype) if example.is_floating_point() else array)
    return tuple(made)
