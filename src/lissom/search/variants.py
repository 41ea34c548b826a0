"""Variants: the ways in which each part of a network can be made lighter, and the steps that make several of them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lissom.factorize import Factorize
from lissom.factorize.ranks import macs_of
from lissom.factorize.replacing import Places
from lissom.graph.blocks import replaceable
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.job import Job, Step
from lissom.lighten import Lighten
from lissom.network import Network
from lissom.substitute import Substitute, pair

__all__ = ["RATIOS", "Variant", "together", "variants"]

RATIOS = (0.25, 0.4, 0.55, 0.7)
"""Shares of a part's parameters at which each kind of variant is made."""


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


def variants(
    network: Network, job: Job, samples: int, *, ratios: Sequence[float] = RATIOS, least: float = 0.0
) -> Iterator[Variant]:
    """Every variant of every part; of each layer the first is to leave it as it is.

    Args:
        network: The original.
        job: Brings calibration data.
        samples: Calibration samples that variants are fitted on.
        ratios: Shares of a part's parameters at which each kind is made.
        least: Share of all layers' multiply-accumulates or parameters that a layer must have to be worth it.
    """
    places = Places.of(network, job, "channel", samples=min(samples, 2))
    paths = _heavy(places, least)
    for path in paths:
        yield Variant(name=f"{path} whole", covers=(path,))
        for step in _blocks(places.layer(path), path, samples, ratios):
            yield Variant(name=f"{path} {_kind(step)} {step.ratio}", covers=(path,), steps=(step,))
    for group in groups(capture(network)):
        between = tuple(name.rpartition(".")[0] for name in pair(network, group))
        if between and set(between) <= set(paths):
            for ratio in ratios:
                step = Substitute(kind="narrow", ratio=ratio, samples=samples, include=(between[0],))
                yield Variant(name=f"{between[0]} narrow {ratio}", covers=between, steps=(step,))


def _blocks(layer: nn.Module, path: str, samples: int, ratios: Sequence[float]) -> Iterator[Any]:
    for method in ("channel", "spatial", "tucker"):
        if not replaceable(layer, method):
            yield from (Factorize(method=method, ratio=ratio, samples=samples, include=(path,)) for ratio in ratios)
    if not replaceable(layer, "grouped"):
        for kind in ("separable", "grouped"):
            yield from (Substitute(kind=kind, ratio=ratio, samples=samples, include=(path,)) for ratio in ratios)


def _kind(step: Any) -> str:
    found: str = step.method if isinstance(step, Factorize) else step.kind
    return found


def _heavy(places: Places, least: float) -> list[str]:
    """The layers with at least this share of the work, or of the parameters, of all layers together."""
    if not least:
        return list(places.paths)
    work = {path: macs_of(nn.Sequential(places.layer(path)), places.arrived(path)) for path in places.paths}
    size = {path: sum(each.numel() for each in places.layer(path).parameters()) for path in places.paths}
    shares = {path: max(work[path] / sum(work.values()), size[path] / sum(size.values())) for path in places.paths}
    return [path for path in places.paths if shares[path] >= least]


def together(chosen: Sequence[Variant]) -> tuple[Step, ...]:
    """The steps of variants: narrower pairs first, then all blocks in one pass, each kind with its layers."""
    steps = [step for variant in chosen for step in variant.steps]
    narrow = [step for step in steps if isinstance(step, Substitute) and step.kind == "narrow"]
    layers: dict[Any, tuple[str, ...]] = {}
    for step in steps:
        if step not in narrow:
            kind = dataclasses.replace(step, include=())  # type: ignore[type-var]
            layers[kind] = (*layers.get(kind, ()), *step.include)  # type: ignore[attr-defined]
    parts = tuple(dataclasses.replace(kind, include=paths) for kind, paths in layers.items())
    return (*narrow, *((Lighten(parts=parts),) if parts else ()))
