"""One slope for all tensors: the price of a bit at which the network's metric drops by no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lissom.calibrate.importance import Felt, felt
from lissom.codec import Quantized
from lissom.codec.calibrated import Importance, important_levels
from lissom.data import Data
from lissom.measure.metrics import Measured, Metric, default_metric, measure
from lissom.network import Network

__all__ = ["Priced", "importance_of", "within_drop"]

Array = npt.NDArray[Any]
SAMPLES = 64  # calibration samples whose gradients are taken
ROUNDS = 9  # of bisection: the price is then known to 5 %
CHEAPEST, DEAREST = 1e-14, 1e-2  # prices of a bit, in divergence of the answers
INDEPENDENT = 8  # positions of one sample that say something new, about
UNSEEN = 0.1  # of the mean: what a row costs at least, though no sample touched it
FEW = 256  # values below which a tensor stays exact: levels would save nothing


def importance_of(weight: Felt) -> Importance:
    """What the coder takes for the cost of a tensor's errors."""
    fisher = weight.fisher.double().flatten(1).numpy() / 2
    rows = fisher.mean(axis=1)
    rows = np.maximum(rows, UNSEEN * rows.mean())
    if weight.moments is not None:
        moments = weight.moments.double().numpy()
        own = np.diag(np.diag(moments))
        share = len(moments) / (len(moments) + INDEPENDENT * weight.samples)  # what few samples have in common is chance
        moments = (1 - share) * moments + share * own
        return Importance(rows / max(float(np.diag(moments).mean()), 1e-30), moments)
    if rows.size * 4 > fisher.size or fisher.shape[1] > 64:  # too little seen to tell a row's values apart
        return Importance(rows, np.ones((1, fisher.shape[1])))
    own = np.maximum(fisher, UNSEEN * rows[:, None])
    return Importance(rows, own / np.maximum(rows[:, None], 1e-30))


@dataclass
class Priced:
    """A network's weights at any price of a bit, and what is lost then.

    Args:
        network: The original.
        data: Its calibration split tells what errors cost, its validation split what is lost.
        lossy: Which parameters take levels, by name; by default every one of two axes and more and of enough values.
        states: Of the trellis.
    """

    network: Network
    data: Data
    lossy: tuple[str, ...] = ()
    states: int = 8
    felt: dict[str, Felt] = field(init=False)
    metric: Metric = field(init=False)
    before: Measured = field(init=False)

    def __post_init__(self) -> None:
        module = self.network.module
        taken = 0
        samples = []
        for inputs, _ in self.data.calibration.batches(len(self.network.example_inputs[0]) if self.network.fixed_batch else 1):
            samples.append(inputs)
            taken += len(inputs[0])
            if taken >= SAMPLES:
                break
        self.felt = felt(module, samples, classify=self.data.task == "classify")
        self.lossy = self.lossy or tuple(
            name
            for name, value in module.named_parameters()
            if name in self.felt and value.numel() >= FEW and value.dtype is torch.float32 and ".parametrizations." not in name
        )
        self.metric = default_metric(self.data)
        self.before = self._measured(self.network)

    def at(self, price: float) -> dict[str, Quantized]:
        """The levels of each lossy parameter."""
        values = dict(self.network.module.named_parameters())
        return {
            name: important_levels(values[name].detach().cpu().numpy(), importance_of(self.felt[name]), price, states=self.states)
            for name in self.lossy
        }

    def drop(self, levels: Mapping[str, Quantized]) -> float:
        """The drop on the validation split, and one paired standard error."""
        module = deepcopy(self.network.module)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, tensor in levels.items():
                parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(tensor.dense(), np.float32)))
        found = self.before.drop_to(self._measured(replace(self.network, module=module)))
        return found.value + (found.standard_error if np.isfinite(found.standard_error) else 0.0)

    def _measured(self, network: Network) -> Measured:
        return measure(network.outputs, self.data.validation, self.metric, original=self.network.outputs)


def within_drop(priced: Priced, max_drop: float, progress: Callable[[str], None] = lambda _: None) -> dict[str, Quantized]:
    """The levels at the highest price at which the drop is within the limit; none, where even the cheapest price loses more.

    Args:
        priced: The network and its data.
        max_drop: The drop that is allowed, 0.01 for one point.
        progress: Told how each price went.
    """
    low, high = np.log(CHEAPEST), np.log(DEAREST)
    best: dict[str, Quantized] = {}
    for _ in range(ROUNDS):
        price = float(np.exp((low + high) / 2))
        levels = priced.at(price)
        drop = priced.drop(levels)
        progress(f"a bit at {price:.2g}: drop {drop:.4f}")
        if drop <= max_drop:
            best, low = levels, np.log(price)
        else:
            high = np.log(price)
    return best
