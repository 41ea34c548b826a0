"""Library: lighter variants of every part of a network, what each costs and saves by itself, and the exact best choice.

For each layer, and each pair of layers with channels of their own between them, there are variants: as it is, factors at
a few ranks, lighter blocks, fewer channels. Each is made and measured alone, kept, and never made again. What the variants
lose is taken to add up; the choice that loses least within a limit is then exact, and what it really loses is measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch.utils.flop_counter import FlopCounterMode

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs
from lissom.choice import Option, choose
from lissom.deploy import deploy
from lissom.errors import LissomError, ModelRefused
from lissom.factorize import Factorize
from lissom.factorize.replacing import Places
from lissom.files import write_json
from lissom.graph.blocks import replaceable
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.job import Job, Step
from lissom.measure.latency import compare
from lissom.measure.metrics import divergence
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.substitute import Substitute, pair

__all__ = ["Choice", "Entry", "Library", "Variant", "variants"]

RANKS = (0.25, 0.4, 0.55, 0.7)
WIDTHS = (0.25, 0.5, 0.75)
TRIES = 4
"""Choices that are run and measured: the best by estimate, and runners-up."""

CALLS = 60
"""Timed calls of each variant; the winner is timed at length, like every file that is handed over."""

Budget = Literal["macs", "parameters", "latency"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to make one part of a network lighter.

    Args:
        name: For reports, and for the file that its measurements are kept in.
        covers: Paths of the layers that it decides.
        steps: What is done; nothing to leave them as they are.
    """

    name: str
    covers: tuple[str, ...]
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one variant does to the whole network, by itself.

    Args:
        divergence: Mean divergence of the outputs from the original's, on validation samples.
        macs: Multiply-accumulates of the whole network.
        parameters: Of the whole network.
        latency: Of the whole network's file, as a share of the original's; None where latency plays no part.
        refused: Why the variant cannot be had.
    """

    divergence: float = 0.0
    macs: float = 0.0
    parameters: float = 0.0
    latency: float | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice of variants that was made and measured.

    Args:
        variants: The parts that change.
        estimate: The sum of what its variants lose.
        measured: What it really is, as one entry.
        met: Whether the limit is met.
    """

    variants: tuple[Variant, ...]
    estimate: float
    measured: Entry
    met: bool

    @property
    def recipe(self) -> Recipe:
        """What makes the network so."""
        return Recipe(tuple(step for variant in self.variants for step in variant.steps))


def variants(network: Network, job: Job, samples: int) -> Iterator[Variant]:
    """Every variant of every part; of each layer the first is to leave it as it is."""
    places = Places.of(network, job, "channel", samples=min(samples, 2))
    for path in places.paths:
        yield Variant(name=f"{path} whole", covers=(path,))
        layer = places.layer(path)
        for method in ("channel", "spatial", "tucker"):
            if not replaceable(layer, method):
                for ratio in RANKS:
                    step: Step = Factorize(method=method, ratio=ratio, samples=samples, include=(path,))
                    yield Variant(name=f"{path} {method} {ratio}", covers=(path,), steps=(step,))
        if not replaceable(layer, "grouped"):
            for kind, ratio in (("separable", 0.01), ("separable", 0.3), ("grouped", 0.4), ("grouped", 0.7)):
                step = Substitute(kind=kind, ratio=ratio, samples=samples, include=(path,))  # type: ignore[arg-type]
                yield Variant(name=f"{path} {kind} {ratio}", covers=(path,), steps=(step,))
    for group in groups(capture(network)):
        between = tuple(name.rpartition(".")[0] for name in pair(network, group))
        if between and set(between) <= set(places.paths):
            for ratio in WIDTHS:
                step = Substitute(kind="narrow", ratio=ratio, samples=samples, include=(between[0],))
                yield Variant(name=f"{between[0]} narrow {ratio}", covers=between, steps=(step,))


@dataclass(frozen=True)
class Library:
    """The variants of a network with their measurements.

    Args:
        network: The original.
        job: Data; its ``checkpoints`` folder keeps the measurements, so that a stopped search goes on.
        variants: What there is to choose from: :func:`variants`, or some of them.
        samples: Calibration samples that variants are fitted on, and validation samples that they are measured on.
        timed: Whether each is timed in its place, in ONNX Runtime.
    """

    network: Network
    job: Job
    variants: tuple[Variant, ...]
    samples: int = 256
    timed: bool = False

    @cached_property
    def _file(self) -> bytes:
        """The original's file, which variants are timed beside."""
        return deploy(self.network).to_bytes()

    def entries(self, executor: Executor | None = None) -> list[Entry]:
        """The measurements of all variants, in their order.

        Args:
            executor: Any :class:`concurrent.futures.Executor` measures variants side by side; None does it in turn.
                Variants that need the graph are measured here all the same: torch captures one network at a time.
        """
        here = [variant for variant in self.variants if executor is None or len(variant.covers) > 1]
        there = [variant for variant in self.variants if variant not in here]
        found: dict[str, Entry] = {}
        with self.job.progress.task("measuring lighter variants", len(self.variants)) as task:
            for part, side_by_side in ((here, None), (there, executor)):
                measure = map if side_by_side is None else side_by_side.map
                for variant, entry in zip(part, measure(self.entry, part), strict=True):
                    self.job.check_time()
                    found[variant.name] = entry
                    task.advance()
        return [found[variant.name] for variant in self.variants]

    def entry(self, variant: Variant) -> Entry:
        """What a variant does by itself: read back where it is kept, else made and measured."""
        kept = None if self.job.checkpoints is None else self.job.checkpoints / "library" / f"{variant.name}.json"
        if kept is not None and kept.exists():
            return Entry(**json.loads(kept.read_text(encoding="utf-8")))
        entry = self.measured(variant.steps)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, dataclasses.asdict(entry))
        return entry

    def measured(self, steps: Sequence[Step]) -> Entry:
        """What steps do to the whole network; steps that leave it as it is are refused, so that nothing is tried twice."""
        alone = dataclasses.replace(self.job, checkpoints=None)
        own = edits.copy(self.network)  # hooks look into the module: every worker has its own
        made = Recipe(tuple(steps)).apply(own, alone)
        if steps and len(made.slices) == len(own.slices):
            return Entry(refused=made.notes[-1] if made.notes else "it changes nothing")
        return Entry(
            divergence=self._divergence(made, own),
            macs=_macs(made),
            parameters=float(sum(each.numel() for each in made.module.parameters())),
            latency=self._latency(made) if self.timed else None,
        )

    def best(self, budget: Budget, limit: float, executor: Executor | None = None) -> Choice:
        """The choice that loses least while the network costs at most ``limit`` times what it costs now.

        The best choices by estimate are made and measured; one that costs more than was estimated tightens the limit
        for the next. Where none meets the limit, the cheapest is given.

        Raises:
            ModelRefused: the network has no layer that can be replaced.
        """
        entries = self.entries(executor)
        usable = [(variant, entry) for variant, entry in zip(self.variants, entries, strict=True) if not entry.refused]
        if not usable:
            raise ModelRefused("no layer of the network can be replaced by a lighter one: lissom inspect says why")
        now = _cost(self.measured(()), budget)
        options = [
            Option(variant.covers, len(variant.covers) - (now - _cost(entry, budget)) / now, entry.divergence)
            for variant, entry in usable
        ]
        parts, aim = sum(len(variant.covers) for variant, _ in usable if not variant.steps), limit
        tried: list[tuple[int, ...]] = []
        found: list[Choice] = []
        for _ in range(TRIES):
            chosen = choose(options, parts - 1 + aim, tried)
            if chosen in tried:
                break
            tried.append(chosen)
            taken = tuple(usable[number][0] for number in chosen if usable[number][0].steps)
            measured = self.measured(tuple(step for variant in taken for step in variant.steps))
            cost = _cost(measured, budget) / now
            found.append(
                Choice(
                    variants=taken,
                    estimate=sum(options[number].loss for number in chosen),
                    measured=measured,
                    met=cost <= limit * 1.001,
                )
            )
            if not found[-1].met:
                aim *= limit / cost
        met = [choice for choice in found if choice.met]
        if met:
            return min(met, key=lambda choice: choice.measured.divergence)
        return min(found, key=lambda choice: _cost(choice.measured, budget))

    def _divergence(self, made: Network, original: Network) -> float:
        total, count = 0.0, 0
        for inputs, _ in self.job.data.validation.batches(64):
            moved = divergence(made.outputs(*inputs), original.outputs(*inputs), self.job.data.task)
            total, count = total + float(moved.sum()), count + len(moved)
            if count >= self.samples:
                break
        return total / max(count, 1)

    def _latency(self, made: Network) -> float:
        inputs = [tensor[:1].numpy() for tensor in calibration_inputs(self.network, self.job, 1)[0]]
        return 1 / compare(self._file, deploy(made).to_bytes(), inputs, calls=CALLS).ratio


def _macs(network: Network) -> float:
    """Multiply-accumulates for one sample, counted while the network runs: a hundred variants need no hundred captures."""
    with FlopCounterMode(display=False) as counter:
        network.outputs(*network.example_inputs)
    return float(counter.get_total_flops()) / 2 / len(network.example_inputs[0])


def _cost(entry: Entry, budget: Budget) -> float:
    value = {"macs": entry.macs, "parameters": entry.parameters, "latency": entry.latency}[budget]
    if value is None:
        raise LissomError("latency was not measured: build the library with timed=True")
    return value
