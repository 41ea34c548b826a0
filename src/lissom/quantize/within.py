"""QuantizeWithin: integers everywhere, but for what a limit of accuracy or latency lets the costliest layers have instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from lissom import edits
from lissom.choice import Option, choose
from lissom.deploy.finish import Plain
from lissom.deploy.layer_costs import LayerCost, best_ranges, layer_costs
from lissom.deploy.pipeline import deploy, plain
from lissom.deploy.quantized_graph import graph_of, is_quantized_graph, quantize_graph, weight_names
from lissom.deploy.settings import Deploy, Ranges, Types
from lissom.deploy.static import Static
from lissom.deploy.targets import row
from lissom.errors import UsageError
from lissom.job import Job, Step, step
from lissom.measure.latency import time_in_turns
from lissom.measure.metrics import Measured, Run, scores_of
from lissom.measure.profile import layer_seconds
from lissom.network import Network
from lissom.quantize.rounding import BATCH, RoundWeights
from lissom.runtimes import open_file
from lissom.runtimes.network import file_network

__all__ = ["QuantizeWithin"]

REPAIRED = 0.5
"""Share of the layers that repairs may touch: a network of which more must stay float had better not be quantized."""

TRIES = 3
BETWEEN = 1.5
"""How much more than what a file takes too long is taken off the layers' time: some of it is spent between them."""


@dataclass(frozen=True)
class _Repair:
    """What is done to the costliest layers.

    Args:
        ranges: By the graph's name of what a layer reads: the formula of its range.
        wide: Layers whose weights have 8 bits.
        kept: Layers that stay float.
    """

    ranges: Mapping[str, Ranges] = field(default_factory=dict)
    wide: tuple[LayerCost, ...] = ()
    kept: tuple[LayerCost, ...] = ()


@step
class QuantizeWithin(Step):
    """Round activations and weights to integers, and give the layers that this costs most what a limit leaves room for.

    All layers are rounded first, and corrected on data (``QuantizeActivations``, ``RoundWeights``). Where a limit wants more,
    each layer is put into integers alone, and the layers are ranked by what that does to the outputs.

    A drop is that from the job's original, so that what steps before this one lost counts as well. Where they lost too much
    by themselves, nothing is repaired.

    With ``max_drop``, while the drop is over the limit, the worst 1, 2, 4 … layers get the range formula that hurts them least
    and weights of 8 bits (where these have fewer), and if that does not do, stay float. The first file within the limit is
    taken; where none is, the one that loses least, and a note says so.

    With ``max_latency``, each layer's time is measured in float and in integers, and those stay float that save most error for
    their time: an integer program, solved exactly, then checked by timing the file.

    The result is the quantized graph, as of ``QuantizeActivations`` and ``RoundWeights``.

    Args:
        max_drop: How far the file's metric may fall on the validation split, as ``--max-drop`` counts it: by the one-sided 95 %
            bound of its paired drop.
        max_latency: Seconds that one call of the file may take on this machine, on one sample and one thread.
        bits: Bits of weights.
        types: Integer types of activations and weights: see :class:`lissom.deploy.Deploy`.
        target: For which target: see there.
        method: How weights are rounded: see :class:`~lissom.quantize.rounding.RoundWeights`.
        samples: How many calibration samples are used at most.

    Raises:
        UsageError: not exactly one limit is given.

    Example:
        >>> QuantizeWithin(max_drop=0.01).to_dict()
        {'QuantizeWithin': {'max_drop': 0.01}}
    """

    max_drop: Annotated[float, Gt(0)] | None = None
    max_latency: Annotated[float, Gt(0)] | None = None
    bits: Annotated[int, Ge(2), Le(8)] = 8
    types: Types = "auto"
    target: str = "this-machine"
    method: Literal["gptq", "adaround", "nearest"] = "gptq"
    samples: Annotated[int, Ge(1)] = 128

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.max_latency is None):
            raise UsageError("QuantizeWithin: give one of max_drop and max_latency")

    def apply(self, network: Network, job: Job) -> Network:
        """The quantized graph."""
        if is_quantized_graph(network):
            return network.noting("the activations are quantized already: they are not quantized again")
        work = _Work(self, network, job)
        return work.within_drop(self.max_drop) if self.max_drop is not None else work.within_latency(self.max_latency or 0.0)


class _Work:
    """One application of the step: the float graph is made once, and quantized anew for each repair."""

    def __init__(self, wanted: QuantizeWithin, network: Network, job: Job) -> None:
        self.wanted, self.network, self.job = wanted, network, job
        self.settings = Deploy(precision="int8", types=wanted.types, target=wanted.target, samples=wanted.samples)
        self.runtime = row(wanted.target).runtime
        self.source = plain(network, self.settings)
        self.calibration = [inputs for inputs, _ in job.data.calibration.batches(BATCH)]
        self.first = self.repaired(_Repair())
        self.settings = graph_of(self.first).settings  # ranges and types as they were chosen, once for all repairs

    def within_drop(self, limit: float) -> Network:
        """The mildest repair that keeps the drop within the limit."""
        original = self.job.teacher or self.network
        reference = [original.outputs(*inputs) for inputs, _ in self.job.data.validation.batches(BATCH)]
        before = self._scores(original.outputs, reference)

        def drop_of(run: Run) -> float:
            return before.drop_to(self._scores(run, reference)).bound

        def drop_of_file(made: Network) -> float:
            return drop_of(file_network(deploy(made).to_bytes(), runtime=self.runtime).outputs)

        best, least = self.first, drop_of_file(self.first)
        if least > limit and self.network is not original and (lost := drop_of(self.network.outputs)) > limit:
            return best.noting(f"the drop may be {limit}, and is up to {lost:.4f} before anything is in integers")
        for repair in () if least <= limit else self._repairs():
            made = self.repaired(repair)
            drop = drop_of_file(made)
            best, least = (made, drop) if drop < least else (best, least)
            if least <= limit:
                break
        return best if least <= limit else best.noting(f"the drop may be {limit} and is up to {least:.4f}, whatever is repaired")

    def _scores(self, run: Run, reference: Sequence[tuple[object, ...]]) -> Measured:
        batches = list(self.job.data.validation.batches(BATCH))
        targets = reference if self.job.metric.against_original else [expected for _, expected in batches]
        return scores_of([run(*inputs) for inputs, _ in batches], targets, self.job.metric, self.job.data.validation.name)

    def within_latency(self, limit: float) -> Network:
        """The layers in float that save the most error within the time."""
        _, costs = self._costs()
        sample = tuple(tensor.numpy() for tensor in self.job.data.calibration.first(1)[0])

        def typical(made: Network) -> float:
            session = open_file(deploy(made).to_bytes(), self.runtime)
            return time_in_turns({"file": partial(session, *sample)})["file"].p10

        seconds = {kind: _by_layer(made, sample, costs) for kind, made in (("float", self.network), ("integers", self.first))}
        options = [
            Option((cost.weight,), seconds[kind].get(cost.weight, 0.0), loss)
            for cost in costs
            for kind, loss in (("integers", cost.error), ("float", 0.0))
        ]
        made, taken = self.first, typical(self.first)
        room = limit - taken + sum(seconds["integers"].values())
        for _ in range(TRIES):
            chosen = {options[number].covers[0] for number in choose(options, room) if not options[number].loss}
            if len(chosen) == len(costs):
                return self.network.noting(f"every layer stays float: a call may take {limit:.4g} s")
            made = self.repaired(_Repair(kept=tuple(cost for cost in costs if cost.weight in chosen))) if chosen else self.first
            taken = typical(made)
            if taken <= limit or not chosen:
                break
            room -= BETWEEN * (taken - limit)
        return made if taken <= limit else made.noting(f"a call may take {limit:.4g} s, and takes {taken:.4g} s in integers")

    def _costs(self) -> tuple[Static, tuple[LayerCost, ...]]:
        static = Static(_copied(self.source), self.settings, self.calibration)
        return static, layer_costs(static, self.settings.ranges, self.settings.types)

    def _repairs(self) -> Iterator[_Repair]:
        """From the mildest to the strongest."""
        static, costs = self._costs()
        count = 1
        while count <= max(1, int(REPAIRED * len(costs))):
            worst = costs[:count]
            ranges = {
                value: best
                for cost in worst
                for best in [best_ranges(static, cost, self.settings.types)]
                for value in cost.values
            }
            wide = worst if self.wanted.bits < 8 else ()
            if wide or set(ranges.values()) != {self.settings.ranges}:
                yield _Repair(ranges, wide)
            yield _Repair(kept=worst)
            count *= 2

    def repaired(self, repair: _Repair) -> Network:
        """The quantized graph with this repair, its weights rounded."""
        self.job.check_time()
        settings = dataclasses.replace(self.settings, keep_float=tuple(escape(cost.weight) for cost in repair.kept))
        graph = quantize_graph(_copied(self.source), settings, self.calibration, repair.ranges)
        names = weight_names(graph)
        wide = {names[cost.weight] for cost in repair.wide}
        for bits, chosen in ((8, wide), (self.wanted.bits, set(names.values()) - wide)):
            if chosen:
                include = tuple(escape(name) for name in sorted(chosen))
                rounding = RoundWeights(bits=bits, method=self.wanted.method, samples=self.wanted.samples, include=include)
                graph = rounding.apply(graph, self.job)
        done = [f"range by {kind} for {value}" for value, kind in repair.ranges.items() if kind != settings.ranges]
        done += [f"8 bits for {edits.users_name(cost.weight)}" for cost in repair.wide]
        done += [f"float for {edits.users_name(cost.weight)}" for cost in repair.kept]
        return graph.noting(f"repaired, the costliest layers first: {', '.join(done)}") if done else graph


def _by_layer(made: Network, sample: Sequence[npt.NDArray[Any]], costs: Sequence[LayerCost]) -> dict[str, float]:
    """Seconds of each layer in a network's file."""
    layers = {cost.weight: (edits.users_name(cost.weight),) for cost in costs}
    with TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        deploy(made).save(file)
        return layer_seconds(file, sample, layers)


def _copied(source: Plain) -> Plain:
    """Quantizing changes the graph that it is given."""
    return dataclasses.replace(source, editor=source.editor.copy())
