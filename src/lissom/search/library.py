"""Library: lighter variants of every part of a network, what each costs and saves by itself, and the exact best choice.

For each layer, and each pair of layers with channels of their own between them, there are variants: as it is, factors at
a few ranks, lighter blocks, fewer channels. Each is made and measured alone, kept, and never made again. What the variants
lose is taken to add up; the choice that loses least within a limit is then exact, and what it really loses is measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs
from lissom.choice import Option, choose
from lissom.deploy import Deploy, deploy
from lissom.errors import DeployFailed, LissomError, ModelRefused
from lissom.factorize.fit import fit
from lissom.factorize.ranks import macs_of
from lissom.factorize.replacing import Places, no_gain
from lissom.files import fingerprint, write_json
from lissom.job import Job, Silent, Step
from lissom.measure.latency import compare
from lissom.measure.metrics import divergence
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.search.part_times import PartTimes
from lissom.search.variants import Variant, together

__all__ = ["Budget", "Choice", "Entry", "Library"]

TRIES = 4
"""Choices that are run and measured: the best by estimate, and runners-up."""

FEW = 8
"""Samples that give the ranges of a file in integers that is only timed."""

Budget = Literal["macs", "parameters", "latency"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one variant does to the whole network, by itself.

    Args:
        missed: Of a block, the share of its layer's output (its variance on calibration inputs) that it misses.
        divergence: Mean divergence of the outputs from the original's, on validation samples.
        macs: Multiply-accumulates of the whole network.
        parameters: Of the whole network.
        latency: Of the whole network's file, as a share of the original's; None where latency plays no part.
        refused: Why the variant cannot be had, or is not worth having.
    """

    missed: float = 0.0
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
        entries: What each of them does by itself.
        estimate: The sum of what its variants lose.
        measured: What it really is, as one entry.
        met: Whether the limit is met.
    """

    variants: tuple[Variant, ...]
    entries: tuple[Entry, ...]
    estimate: float
    measured: Entry
    met: bool

    @property
    def recipe(self) -> Recipe:
        """What makes the network so."""
        return Recipe(together(self.variants))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Of each part that changes, what was chosen and what that alone does."""
        return tuple(_reason(*each) for each in zip(self.variants, self.entries, strict=True))


def _reason(variant: Variant, entry: Entry) -> str:
    timed = "" if entry.latency is None else f", and the network takes {entry.latency:.1%} of its time"
    return f"{variant.name} was chosen: by itself it moves the outputs by {entry.divergence:.2g}{timed}"


@dataclass(frozen=True)
class _Block:
    """A fitted block: what it is, what it misses, and what it costs (work, parameters, layers)."""

    method: str
    sizes: tuple[int, ...]
    made: nn.Sequential
    missed: float
    costs: tuple[int, int, int]

    def beats(self, other: _Block) -> bool:
        """Whether this one is no worse in anything, and better in something."""
        no_worse = self.missed <= other.missed and all(a <= b for a, b in zip(self.costs, other.costs, strict=True))
        return no_worse and (self.missed, *self.costs) != (other.missed, *other.costs)


@dataclass(frozen=True)
class Library:
    """The variants of a network with their measurements.

    Args:
        network: The original.
        job: Data; its ``checkpoints`` folder keeps the measurements, so that a stopped search goes on.
        variants: What there is to choose from: :func:`lissom.search.variants.variants`, or some of them.
        samples: Calibration samples that variants are fitted on, and validation samples that they are measured on.
        timed: Whether each is timed in its place, in ONNX Runtime: the layers that it changes, in the whole network's file.
            The time of one part is a few percent of the network's, less than the network's own varies on a busy machine.
            Choices are timed as a whole.
        ships: How the file is made whose time counts: in integers, where integers will ship.
    """

    network: Network
    job: Job
    variants: tuple[Variant, ...]
    samples: int = 256
    timed: bool = False
    ships: Deploy = dataclasses.field(default_factory=Deploy)

    @cached_property
    def _file(self) -> bytes:
        """The original's file, which variants are timed beside."""
        return self._bytes_of(self.network)

    def _bytes_of(self, made: Network) -> bytes:
        """The file as it ships, but for ranges of integers: they move no time, and the best take long to find."""
        quick = dataclasses.replace(self.ships, ranges="minmax", samples=FEW)
        needed = self.ships.precision == "int8"
        calibration = calibration_inputs(self.network, self.job, FEW) if needed else None
        return deploy(made, quick, calibration).to_bytes()

    @cached_property
    def _sample(self) -> list[npt.NDArray[Any]]:
        """One sample, as files take it."""
        return [tensor[:1].numpy() for tensor in calibration_inputs(self.network, self.job, 1)[0]]

    @cached_property
    def _parts(self) -> PartTimes:
        return PartTimes(self.network, self._file, self._sample)

    @cached_property
    def _times(self) -> dict[str, float]:
        """Latencies by what was put where: the same block in layers of one form, with inputs of one form, is timed once."""
        return {}

    @cached_property
    def _answers(self) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        """Validation inputs in batches, and what the original answers."""
        found, count = [], 0
        for inputs, _ in self.job.data.validation.batches(64):
            found.append((inputs, self.network.outputs(*inputs)))
            count += len(inputs[0])
            if count >= self.samples:
                break
        return found

    def entries(self, executor: Executor | None = None) -> list[Entry]:
        """The measurements of all variants, in their order.

        Args:
            executor: Any :class:`concurrent.futures.Executor` measures the variants of several layers side by side; None
                does one layer after the other. Pairs of layers need the graph and are measured here all the same: torch
                captures one network at a time.
        """
        parts: dict[tuple[str, ...], list[Variant]] = {}
        for variant in self.variants:
            parts.setdefault(variant.covers, []).append(variant)
        here = [part for covers, part in parts.items() if executor is None or len(covers) > 1]
        there = [part for part in parts.values() if part not in here]
        found: dict[str, Entry] = {}
        alone = dataclasses.replace(self, job=dataclasses.replace(self.job, executor=None))  # which no other process can take
        with self.job.progress.task("measuring lighter variants", len(self.variants)) as task:
            for some, side_by_side in ((here, None), (there, executor)):
                measure = map if side_by_side is None else side_by_side.map
                for part, measured in zip(some, measure(alone.part, some), strict=True):
                    self.job.check_time()
                    found.update(measured)
                    task.advance(len(part))
        return [found[variant.name] for variant in self.variants]

    def part(self, part: Sequence[Variant]) -> dict[str, Entry]:
        """What each variant of one part does by itself: read back where it is kept, else made and measured."""
        names = [variant.name for variant in part]
        return self._kept(part[0].name, names, lambda: self._pair(part) if len(part[0].covers) > 1 else self._layer(part))

    def _kept(self, name: str, names: Sequence[str], make: Callable[[], dict[str, Entry]]) -> dict[str, Entry]:
        """Measurements from their file; made, and written there, where one of them is missing."""
        folder = None if self.job.checkpoints is None else self.job.checkpoints / "library"
        if folder is not None and (folder / f"{name}.json").exists():
            found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            if set(names) <= set(found):
                return {each: Entry(**found[each]) for each in names}
        made = make()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{name}.json", {each: dataclasses.asdict(entry) for each, entry in made.items()})
        return made

    def _pair(self, part: Sequence[Variant]) -> dict[str, Entry]:
        return {variant.name: self.measured(variant.steps) for variant in part}

    def _layer(self, part: Sequence[Variant]) -> dict[str, Entry]:
        """The variants of one layer: all are fitted, and those that another one beats in everything go no further."""
        path, own = part[0].covers[0], edits.copy(self.network)  # hooks look into the module: every worker has its own
        quiet = dataclasses.replace(self.job, checkpoints=None, progress=Silent())
        places = Places.of(own, quiet, "channel", samples=self.samples, include=(path,))
        layer, target, arrived = places.layer(path), places.target(path), places.arrived(path)
        found: dict[str, Entry] = {}
        blocks: dict[str, _Block] = {}
        for variant in part:
            if not variant.steps:
                found[variant.name] = self._entry(own, own)
                continue
            method, sizes = variant.steps[0].block_for(path, layer, target)  # type: ignore[attr-defined]
            twin = next((name for name, block in blocks.items() if (block.method, block.sizes) == (method, sizes)), "")
            if why := f"it is {twin}" if twin else no_gain(layer, method, sizes):
                found[variant.name] = Entry(refused=why)
                continue
            made, missed = fit(layer, method, sizes, target)
            size = sum(each.numel() for each in made.parameters())
            blocks[variant.name] = _Block(method, sizes, made, missed, (macs_of(made, arrived), size, len(made)))
        for name, block in blocks.items():
            why = next((f"{other} costs no more and misses less" for other, rival in blocks.items() if rival.beats(block)), "")
            alone = own
            if not why:
                alone, why = places.alone(path, block.method, block.made, block.sizes)
            form = f"{type(layer)} {block.method} {block.sizes} {tuple(arrived.shape[1:])} {block.costs}"
            found[name] = Entry(missed=block.missed, refused=why) if why else self._entry(alone, own, block.missed, form)
        return found

    def measured(self, steps: Sequence[Step], *, whole: bool = False) -> Entry:
        """What steps do to the whole network; steps that leave it as it is are refused, so that nothing is tried twice.

        Args:
            steps: What is done.
            whole: Whether the whole network is timed, and not what changes.
        """
        alone = dataclasses.replace(self.job, checkpoints=None, progress=Silent())
        own = edits.copy(self.network)
        made = Recipe(tuple(steps)).apply(own, alone)
        if steps and len(made.slices) == len(own.slices):
            return Entry(refused=made.notes[-1] if made.notes else "it changes nothing")
        return self._entry(made, own, whole=whole)

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
        now = _cost(self._kept("original", ["original"], lambda: {"original": self.measured(())})["original"], budget)
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
            taken = [usable[number] for number in chosen if usable[number][0].steps]
            measured = self._of([variant for variant, _ in taken])
            cost = _cost(measured, budget) / now
            found.append(
                Choice(
                    variants=tuple(variant for variant, _ in taken),
                    entries=tuple(entry for _, entry in taken),
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

    def _of(self, chosen: Sequence[Variant]) -> Entry:
        """What variants do together: kept too, so that a resumed search takes the same choice."""
        name = f"choice-{fingerprint(names=[variant.name for variant in chosen])[:16]}"
        return self._kept(name, [name], lambda: {name: self.measured(together(chosen), whole=True)})[name]

    def _entry(self, made: Network, original: Network, missed: float = 0.0, form: str = "", *, whole: bool = False) -> Entry:
        moved = [divergence(made.outputs(*inputs), said, self.job.data.task) for inputs, said in self._answers]
        try:
            latency = 1.0 if made is original else self._latency(made, form, whole=whole)
        except DeployFailed as error:
            return Entry(missed=missed, refused=str(error))
        return Entry(
            missed=missed,
            divergence=0.0 if made is original else float(torch.cat(moved).mean()),
            macs=_macs(made),
            parameters=float(sum(each.numel() for each in made.module.parameters())),
            latency=latency if self.timed else None,
        )

    def _latency(self, made: Network, form: str, *, whole: bool) -> float:
        """The share of the original's time."""
        if not self.timed or form in self._times:
            return self._times.get(form, 1.0)
        if whole:
            return 1 / compare(self._file, self._bytes_of(made), self._sample).ratio
        found = self._parts.share(made, self._bytes_of(made))
        if form:
            self._times[form] = found
        return found


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
