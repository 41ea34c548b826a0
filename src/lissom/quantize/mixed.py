"""MixedPrecision: bits for each layer by itself, within a limit of size or accuracy, or by its own distribution."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs
from lissom.choice import Option, choose
from lissom.errors import UsageError
from lissom.job import Job, Step, step
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.quantize.rounding import BATCH, RoundWeights
from lissom.quantize.sensitivity import LayerError, sensitivities

__all__ = ["MixedPrecision"]

TRIES = 5


@step
class MixedPrecision(Step):
    """Round each layer's weights to as many bits as it needs.

    What each width does to the outputs is measured layer by layer; the best widths within the limit are an integer
    program, solved exactly. Errors of layers add up only roughly, so a limit on accuracy is checked by running the network
    rounded, and the size is moved until the drop is within it.

    Args:
        max_size: Bytes of levels and scales that the weights may take.
        max_drop: How far the job's metric on the validation split may fall, as ``--max-drop`` counts it (by the one-sided
            95 % bound of the paired drop); the least size within it wins.
        signal_to_noise: In decibels: each layer takes the fewest bits that keep this much, from its own distribution alone.
        bits: The widths to choose from.
        method: How weights are rounded: see :class:`~lissom.quantize.rounding.RoundWeights`.
        samples: How many calibration samples are used at most.
        include: Globs of tensor names; by default every matrix and kernel.
        exclude: Globs of what is left alone.

    Raises:
        UsageError: not exactly one limit is given, or the smallest choice is larger than ``max_size``.

    Example:
        >>> MixedPrecision(max_size=50_000).to_dict()
        {'MixedPrecision': {'max_size': 50000}}
    """

    max_size: Annotated[int, Ge(1)] | None = None
    max_drop: Annotated[float, Gt(0)] | None = None
    signal_to_noise: Annotated[float, Gt(0)] | None = None
    bits: tuple[Annotated[int, Ge(2), Le(8)], ...] = (2, 3, 4, 6, 8)
    method: Literal["gptq", "adaround", "nearest"] = "gptq"
    samples: Annotated[int, Ge(1)] = 64
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in (self.max_size, self.max_drop, self.signal_to_noise)) != 1:
            raise UsageError("MixedPrecision: give one of max_size, max_drop and signal_to_noise")

    def apply(self, network: Network, job: Job) -> Network:
        """The network with each layer's weights on a grid of its own width."""
        names = edits.selected(network.module, self.include, self.exclude)
        free = [name for name in names if (edit := edits.edit_of(network.module, name)) is None or edit.grid is None]
        if not free:
            return network.noting("every weight is on a grid already: no bits are chosen")
        found = sensitivities(network, calibration_inputs(network, job, self.samples, BATCH), sorted(self.bits), free)
        if self.signal_to_noise is not None:
            return self._rounded(network, job, _by_distribution(found, self.signal_to_noise))
        if self.max_size is not None:
            return self._rounded(network, job, _within(found, self.max_size))
        return self._within_drop(network, job, found)

    def _within_drop(self, network: Network, job: Job, found: tuple[LayerError, ...]) -> Network:
        """The smallest by halving between the least and the greatest size, each checked by running."""
        least, most = _sizes(found)
        before = measure(network.outputs, job.data.validation, job.metric, original=network.outputs)
        best: Network | None = None
        low, high = float(least), float(most)
        for number in range(TRIES):
            job.check_time()
            limit = most if number == 0 else (low + high) / 2
            tried = self._rounded(network, job, _within(found, limit))
            after = measure(tried.outputs, job.data.validation, job.metric, original=network.outputs)
            if before.drop_to(after).bound <= (self.max_drop or 0.0):
                best, high = tried, limit
            elif number == 0:
                return tried.noting(f"even {max(self.bits)} bits in every layer lose more than {self.max_drop}")
            else:
                low = limit
        assert best is not None
        return best

    def _rounded(self, network: Network, job: Job, chosen: dict[str, int]) -> Network:
        rounded = network
        for bits in sorted(set(chosen.values()), reverse=True):
            names = tuple(name for name, width in chosen.items() if width == bits)
            rounded = RoundWeights(bits=bits, method=self.method, samples=self.samples, include=names).apply(rounded, job)
        words = ", ".join(f"{name} {bits}" for name, bits in chosen.items())
        return rounded.noting(f"bits by layer: {words}")


def _sizes(found: tuple[LayerError, ...]) -> tuple[int, int]:
    """The bytes of all layers at the fewest and at the most bits."""
    by_name: dict[str, list[int]] = {}
    for entry in found:
        by_name.setdefault(entry.name, []).append(entry.bytes)
    return sum(map(min, by_name.values())), sum(map(max, by_name.values()))


def _within(found: tuple[LayerError, ...], limit: float) -> dict[str, int]:
    chosen = choose([Option((entry.name,), entry.bytes, entry.output_error) for entry in found], limit)
    size = sum(found[number].bytes for number in chosen)
    if size > limit:
        raise UsageError(f"MixedPrecision: max_size is {limit:.0f}; with the fewest bits the weights take {size:,} bytes")
    return {found[number].name: found[number].bits for number in chosen}


def _by_distribution(found: tuple[LayerError, ...], wanted: float) -> dict[str, int]:
    """The fewest bits that keep the wanted ratio in each layer; the most where none does."""
    chosen: dict[str, int] = {}
    for entry in sorted(found, key=lambda entry: entry.bits, reverse=True):
        if entry.name not in chosen or entry.signal_to_noise >= wanted or math.isinf(entry.signal_to_noise):
            chosen[entry.name] = entry.bits
    order = dict.fromkeys(entry.name for entry in found)
    return {name: chosen[name] for name in order}
