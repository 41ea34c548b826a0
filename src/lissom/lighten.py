"""Lighten: factors and lighter blocks of several kinds in one pass, each layer with its own."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import pydantic
from torch import nn

from lissom.calibrate.moments import run_order
from lissom.errors import UsageError
from lissom.factorize import Factorize
from lissom.factorize.fit import Target
from lissom.factorize.replacing import Places
from lissom.job import Job, Nested, Step, step
from lissom.network import Network
from lissom.substitute import Substitute

__all__ = ["Lighten"]

Parts = Annotated[tuple[Nested, ...], pydantic.Field(min_length=1)]


@step
class Lighten(Step):
    """Replace layers by blocks of several kinds, in the order in which the layers run.

    Each block is fitted to what the original layer answered, on the inputs that the network gives it by then; so it also
    mends what the blocks before it lost, whatever kind they are. Steps one after the other could not: each would take the
    network that it is given for the original. This is what a search over kinds writes down.

    Args:
        parts: :class:`Factorize` (by ratio, energy or estimate) and :class:`Substitute` (but ``"narrow"``) steps. A layer
            that several pick is the first one's.

    Raises:
        UsageError: a part is another step, or one that decides over all layers together.

    Example:
        >>> step = Lighten(parts=(Factorize(ratio=0.5, include=("fc*",)), Substitute(kind="separable", include=("conv*",))))
        >>> [type(part).__name__ for part in step.parts]
        ['Factorize', 'Substitute']
    """

    parts: Parts

    def __post_init__(self) -> None:
        for part in self.parts:
            dealt = isinstance(part, Factorize) and (part.macs or part.parameters or part.latency)
            narrow = isinstance(part, Substitute) and part.kind == "narrow"
            if dealt or narrow or not isinstance(part, Factorize | Substitute):
                raise UsageError(f"Lighten: parts has {part}; it takes Factorize by ratio, and Substitute but narrow")

    def apply(self, network: Network, job: Job) -> Network:
        """The lighter network, and in its notes what was left alone and why."""
        all_places = [_places(part, network, job) for part in self.parts]
        owner: dict[str, Any] = {}
        for part, places in zip(self.parts, all_places, strict=True):
            owner |= {path: part for path in places.paths if path not in owner}
        left = {path: why for places in all_places for path, why in places.left.items() if path not in owner}
        widest = max(all_places, key=lambda places: sum(len(batch[0]) for batch in places.inputs) * places.aware)
        ordered = tuple(path for path in run_order(network, widest.inputs[0]) if path in owner)

        def block_for(path: str, layer: nn.Module, target: Target) -> tuple[str, tuple[int, ...]]:
            found: tuple[str, tuple[int, ...]] = owner[path].block_for(path, layer, target)
            return found

        return dataclasses.replace(widest, paths=ordered, left=left).replaced(block_for, job)


def _places(part: Any, network: Network, job: Job) -> Places:
    return Places.of(network, job, part.method, samples=part.samples, include=part.include, exclude=part.exclude)
