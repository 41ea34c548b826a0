"""Ranges of activations: a graph is run on calibration data, and each value's distribution is kept in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.errors import DataRefused
from lissom.grids.ranges import RANGES
from lissom.runtimes import Session

__all__ = ["BINS", "Observer", "observe", "ranges_of"]

Array = npt.NDArray[Any]
BINS = 2048
Seen = TypeVar("Seen", bound="Sees")
MEMORY = 2**25
"""Bytes of values that one call of the graph may show at a time; batches are cut to fit."""


class Sees(Protocol):
    """What takes in the values that a place in a graph has, batch by batch."""

    def update(self, values: Array) -> None:
        """Take these values in."""


class Observer:
    """The distribution of one value over all that was seen: exact ends, and a histogram that widens as it must.

    The memory is the same however much is seen: ``BINS`` counts. Where a batch lies outside the histogram, its counts
    move to the bins of a wider one by their centres, so each stays within one (new) bin of where it was.

    Example:
        >>> seen = Observer()
        >>> seen.update(np.array([0.0, 1.0], np.float32)); seen.update(np.array([-3.0], np.float32))
        >>> seen.low, seen.high, int(seen.counts.sum())
        (-3.0, 1.0, 3)
    """

    def __init__(self) -> None:
        self.low = np.inf
        self.high = -np.inf
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def update(self, values: Array) -> None:
        """Count these values.

        Raises:
            DataRefused: one of them is NaN or infinite.
        """
        seen = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).ravel()
        if not seen.numel():
            return
        low, high = (float(end) for end in seen.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataRefused("the network gives NaN or infinity on the calibration data: leave such samples out")
        self._widen(min(low, self.low), max(high, self.high))
        if self.low == self.high:
            self.counts[0] += seen.numel()
        else:
            places = (seen - self.low).mul_(BINS / (self.high - self.low)).int().clamp_(0, BINS - 1)
            self.counts += torch.bincount(places, minlength=BINS)  # twice as fast as torch.histc

    def centres(self) -> Tensor:
        """The middle of each bin, float64."""
        step = (self.high - self.low) / BINS
        return self.low + (torch.arange(BINS, dtype=torch.float64) + 0.5) * step

    def _widen(self, low: float, high: float) -> None:
        if low == self.low and high == self.high:
            return
        if not self.counts.any():
            self.low, self.high = low, high
            return
        centres = self.centres()
        places = ((centres - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
        self.counts = torch.zeros_like(self.counts).scatter_add_(0, places, self.counts)
        self.low, self.high = low, high


def observe(
    session: Session, names: Sequence[str], batches: Iterable[Sequence[Array]], *, samples: int, kind: Callable[[], Seen]
) -> dict[str, Seen]:
    """Run a graph on calibration data and observe values inside of it.

    Args:
        session: The float graph, opened with these values among its outputs.
        names: The values to observe; inputs of the graph may be among them.
        batches: Real inputs, one array per input, the batch first.
        samples: How many samples are used at most.
        kind: What observes each value: :class:`Observer`, or another with its ``update``.

    Raises:
        DataRefused: there is no data, or a value is NaN or infinite on it.
    """
    inputs = session.input_names
    shown = [name for name in names if name not in inputs]
    places = {name: number for number, name in enumerate(session.output_names)}
    observers = {name: kind() for name in names}
    left = samples
    size = 1  # the first call shows how many bytes a sample takes
    for batch in batches:
        start = 0
        while left > 0 and start < len(batch[0]):
            part = [array[start : start + min(size, left)] for array in batch]
            outputs = session(*part)
            for name in shown:
                observers[name].update(outputs[places[name]])
            for name, array in zip(inputs, part, strict=True):
                if name in observers:
                    observers[name].update(array)
            start, left = start + len(part[0]), left - len(part[0])
            each = sum(output.nbytes for output in outputs) // len(part[0])
            size = int(np.clip(MEMORY // max(each, 1), 1, 64))
    if left == samples:
        raise DataRefused("calibration takes real inputs, and there are none: give a few dozen samples, without labels")
    return observers


def ranges_of(
    observers: Mapping[str, Observer], kind: str, *, bits: int = 8, symmetric: bool = False, spread: float | None = None
) -> dict[str, tuple[float, float]]:
    """The lowest and highest value that each observed value's grid should cover; zero is always inside.

    Args:
        observers: What was seen.
        kind: A name of :data:`lissom.grids.ranges.RANGES`.
        bits: Of the grid.
        symmetric: Whether the grid is symmetric about zero.
        spread: The share that ``"percentile"`` keeps, or the deviations that ``"std"`` keeps; None for their defaults.

    Example:
        >>> seen = Observer()
        >>> seen.update(np.linspace(0, 6, 1000, dtype=np.float32))
        >>> ranges_of({"relu6": seen}, "minmax")
        {'relu6': (0.0, 6.0)}
    """
    if not observers:
        return {}
    seen = list(observers.values())
    ends = np.array([[observer.low, observer.high] for observer in seen])
    if kind == "minmax":
        low, high = ends[:, 0], ends[:, 1]
    else:
        points = torch.stack([observer.centres() for observer in seen])
        counts = torch.stack([observer.counts for observer in seen])
        found = _formula(kind, spread)(points, bits, symmetric, counts)
        low = np.maximum(found[0].numpy(), ends[:, 0])
        high = np.minimum(found[1].numpy(), ends[:, 1])
    return {name: (min(float(a), 0.0), max(float(b), 0.0)) for name, a, b in zip(observers, low, high, strict=True)}


def _formula(kind: str, spread: float | None) -> Callable[..., tuple[Tensor, Tensor]]:
    if spread is None:
        return RANGES[kind]
    extra = {"percentile": "share", "std": "k"}.get(kind)
    return RANGES[kind] if extra is None else partial(RANGES[kind], **{extra: spread})
