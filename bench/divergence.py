"""Bytes at the divergence of NNCodec: how far the network's answers move, where calibration data says what errors cost.

EfficientNet-lite0's photos and MiniLM's sentences are split by their number modulo 5: 0 and 1 calibrate, 2 finds the price of
a bit at which lissom diverges as NNCodec does there, 3 and 4 report. NNCodec takes no data.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lissom.codec import Quantized, encode
from lissom.codec.lossy import rate_distortion_levels
from lissom.data import Arrays, Data, Split
from lissom.slope import Priced
from quantization import BATCH, ERRORS, NETWORKS

Weights = dict[str, npt.NDArray[np.float32]]
Values = dict[str, Quantized | npt.NDArray[np.float32]]
TRIES = 6
BESIDE = 0.4  # steps of the price's logarithm, where the test split asks for another point
NEAR = 0.2  # how far, by the logarithm, a point's divergence may lie from the wanted one on the validation split


class Probe:
    """A network, its data in three parts, and how far answers lie from the original's on any of them."""

    def __init__(self, name: str, weights: Weights) -> None:
        self.network, self.samples = NETWORKS[name]()
        self.error = ERRORS[name]
        number = np.arange(len(self.samples[0]))
        self.places = {"calibration": number % 5 < 2, "validation": number % 5 == 2, "test": number % 5 > 2}
        arrays = Arrays(self.samples)
        splits = {split: Split(split, arrays, number[chosen]) for split, chosen in self.places.items()}
        task = "classify" if name == "lite0" else "imitate"
        data = Data(train=splits["calibration"], task=task, **splits)
        self.original = {split: self.answers(self.network.module, split) for split in ("validation", "test")}
        self.known = self._known(weights)
        self.priced = Priced(self.network, data, lossy=tuple(self.known.values()))
        self.points: dict[float, tuple[float, Values]] = {}  # by the logarithm of the price: that of the divergence, and levels

    def answers(self, module: nn.Module, split: str) -> npt.NDArray[np.float32]:
        """The first output on a split."""
        chosen = [torch.from_numpy(part[self.places[split]]) for part in self.samples]
        with torch.no_grad():
            found = [module(*parts) for parts in zip(*(part.split(BATCH) for part in chosen), strict=True)]
        return np.concatenate([(each[0] if isinstance(each, tuple) else each).numpy() for each in found])

    def try_out(self, price: float) -> None:
        """Find the levels at a price, given by its logarithm, and how far they diverge on the validation split."""
        values = self.priced.at(math.exp(price))
        self.points[price] = math.log(self.divergence(values, "validation")), values

    def divergence(self, values: Values, split: str) -> float:
        """The mean over a split, with these parameters and buffers in the place of the original's."""
        module = deepcopy(self.network.module)
        state = module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in values.items():
                dense = value.dense() if isinstance(value, Quantized) else value
                state[name].copy_(torch.from_numpy(np.ascontiguousarray(dense, np.float32)))
        return float(self.error(self.original[split], self.answers(module, split)).mean())

    def _known(self, weights: Weights) -> dict[str, str]:
        """The network's own names of the file's tensors, by their values; a tensor that the network does not use has none."""
        parameters = {name: value.detach().numpy() for name, value in self.network.module.named_parameters()}
        found = {}
        for key, value in weights.items():
            alike = (n for n, each in parameters.items() if each.shape == value.shape and np.array_equal(each, value))
            if (name := next(alike, None)) is not None:
                found[key] = name
        return found


def worth_comparing(row: dict[str, Any]) -> bool:
    """Whether the answers are nearer to the original's than half way to those of a network of zeros, which are all alike."""
    return bool(row["divergence"] < 0.5 * row["of_zeros"])


def equal_divergence(probe: Probe, weights: Weights, decoded: Weights, step: float) -> dict[str, Any]:
    """Bytes of all ``weights`` where the answers diverge as with ``decoded``, on the test split; and the points around it.

    Where the peer's network is not :func:`worth_comparing`, there are no bytes.

    Args:
        probe: The network.
        weights: The file's tensors.
        decoded: What the peer's archive of them decodes to.
        step: The peer's, for tensors that the network does not use.
    """
    theirs: Values = {name: decoded[key] for key, name in probe.known.items()}
    wanted = {split: probe.divergence(theirs, split) for split in ("validation", "test")}
    zeros = probe.divergence({name: np.zeros_like(value) for name, value in theirs.items()}, "test")
    row: dict[str, Any] = {"bytes": None, "divergence": wanted["test"], "of_zeros": zeros}
    if not worth_comparing(row):
        return row
    unused = {key: rate_distortion_levels(value, step) for key, value in weights.items() if key not in probe.known}

    def point(price: float) -> tuple[float, float]:
        """Logarithms of the divergence on the test split, and of the bytes."""
        values = probe.points[price][1]
        levels = {name: value for name, value in values.items() if isinstance(value, Quantized)}
        return math.log(probe.divergence(values, "test")), math.log(len(encode({**levels, **unused}, effort="best")))

    goal = math.log(wanted["test"])
    points = {price: point(price) for price in _around(probe, wanted["validation"])}
    for _ in range(TRIES):  # the two splits are not alike: go on until the wanted divergence lies between two points
        off = [found - goal for found, _ in points.values()]
        if min(off) <= 0 <= max(off):
            break
        price = min(points) - BESIDE if min(off) > 0 else max(points) + BESIDE
        probe.try_out(price)
        points[price] = point(price)
    below = [found for found in points.values() if found[0] <= goal]
    above = [found for found in points.values() if found[0] > goal]
    if not below or not above:
        return row
    (a, b), (c, d) = max(below), min(above)
    size = math.exp(b + (d - b) * (goal - a) / (c - a))
    return {**row, "bytes": round(size), "points": sorted(points.values())}


def _around(probe: Probe, wanted: float) -> list[float]:
    """Two prices at which levels diverge about as much as wanted on the validation split, by the secant of logarithms."""
    goal = math.log(wanted)
    for _ in range(TRIES):
        known = sorted(probe.points, key=lambda price: abs(probe.points[price][0] - goal))[:2]
        off = [probe.points[price][0] - goal for price in known]
        if len(known) == 2 and abs(off[0]) < NEAR and abs(off[1]) < 4 * NEAR:
            break
        slope = 1.0
        if len(known) == 2:
            slope = min(max((off[0] - off[1]) / (known[0] - known[1]), 0.3), 3.0)
        # Right at the goal, and where a point lies there already, a little to its other side.
        aim = math.copysign(NEAR, off[0]) if off and abs(off[0]) < NEAR else 0.0
        probe.try_out(known[0] - (off[0] + aim) / slope if known else math.log(1e-9 + 1e-8 * wanted))
    return known
