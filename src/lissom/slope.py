"""One slope for all tensors: the price of a bit at which the network's metric drops by no more than is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lissom.calibrate.importance import WIDEST, Felt, felt
from lissom.calibrate.layers import Layer
from lissom.calibrate.matching import match_answers
from lissom.calibrate.second_order import Statistics, refitted, statistics
from lissom.calibrate.walk import Walk
from lissom.codec import Quantized
from lissom.codec.calibrated import Importance, chance, important_levels, shrunk
from lissom.codec.lossy import SIDE_FEW, rounded
from lissom.data import Data
from lissom.errors import ModelRefused
from lissom.measure.metrics import Measured, Metric, default_metric, measure
from lissom.network import Network, flatten_outputs

__all__ = ["Priced", "within_drop"]

Array = npt.NDArray[Any]
SAMPLES = 256  # calibration samples whose gradients are taken, and that layers are fitted to
BATCH = 32
ROUNDS = 9  # of bisection: the price is then known to 5 %
CHEAPEST, DEAREST = 1e-14, 1e-2  # prices of a bit, in divergence of the answers
UNSEEN = 0.1  # of the mean: what a row costs at least, though no sample touched it
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of what samples say that may be chance
NEIGHBOURHOODS, ENOUGH = 16, 20  # parts of an embedding that share costs, at most, and rows met once that each should have
FEW = 256  # values below which a tensor stays exact: levels would save nothing
RIDGE = 0.3  # pull of a layer's weights towards the original's, when they make up for what the layers before them lost


def costs(rows: Tensor, half: Tensor | None = None) -> Tensor:
    """What each row's errors cost, [groups, rows]: half its Fisher information, drawn to the mean by as much of it as is chance.

    The share is the one with which the costs by half of the samples, ``half``, give the fewest bits by those of the other half.
    """
    own = rows.double().mean(-1) / 2
    if half is None:
        return torch.maximum(own, UNSEEN * own.mean())
    one = half.double().mean(-1) / 2
    other = (2 * own - one).clamp(min=0)
    if float(one.mean()) == 0 or float(other.mean()) == 0:
        return own.mean().expand_as(own)

    def bits(share: float) -> float:
        """How far from the fewest bits, where rows have steps by one half of the samples and errors cost what the other says."""
        total = 0.0
        for told, true in ((one, other), (other, one)):
            taken = (1 - share) * told + share * told.mean()
            total += float((true / taken).mean().log() + taken.log().mean())
        return total

    share = min(SHARES, key=bits)
    share /= 2 - share  # of both halves together, less is chance
    return (1 - share) * own + share * own.mean()


def token_costs(rows: Tensor, seen: Tensor) -> Tensor:
    """What errors in each row of an embedding cost, [1, rows].

    Rows that no sample met share what rows met once cost: new samples meet a row never met before as often as these met one
    for the first and only time (Good, 1953). Vocabularies are often sorted by how frequent tokens are, so rows share with
    their neighbours; where they are not sorted, neighbours are as good as any others.
    """
    own = rows.double().mean(-1) / 2
    once, never = seen == 1, seen == 0

    def shared(part: slice) -> Tensor:
        return own.flatten()[part][once[part]].sum() / max(int(never[part].sum()), 1)

    everywhere = shared(slice(None))
    count = min(max(int(once.sum()) // ENOUGH, 1), NEIGHBOURHOODS)
    ends = [len(seen) * number // count for number in range(count + 1)]
    floor = torch.empty_like(own.flatten())
    for start, end in pairwise(ends):
        floor[start:end] = torch.maximum(shared(slice(start, end)), UNSEEN * everywhere)
    return torch.maximum(own, floor.reshape(own.shape))


def importance_of(weight: Felt) -> Importance:
    """The cost of errors in a tensor that no layer multiplies by, each value on its own."""
    fisher = weight.fisher.double().flatten(1)
    if weight.seen is not None:
        return Importance(token_costs(fisher, weight.seen).numpy())
    rows = costs(fisher, None if weight.half is None else weight.half.flatten(1))[:, None]
    if rows.numel() * 4 > fisher.numel() or fisher.shape[1] > 64:  # too little seen to tell values apart
        return Importance(rows[:, 0].numpy())
    own = torch.maximum(fisher / 2, UNSEEN * rows) / rows.clamp(min=1e-30)
    return Importance(rows[:, 0].numpy(), own.numpy())


def importance_in(layer: Layer, weight: Felt, found: Statistics, share: float | None = None) -> tuple[Importance, float | None]:
    """The cost of errors in a layer's weights, on the inputs that it really gets; their mean is left to the bias.

    Args:
        layer: The layer.
        weight: What the answers feel of it.
        found: Its inputs.
        share: How much of what inputs have in common is chance; None finds it.

    Returns:
        The importance, and the share; None where inputs are taken each on its own.
    """
    covariance = found.covariance
    energy = (covariance.diagonal(dim1=1, dim2=2) + found.mean.square()).mean(1)
    half = None if weight.half is None else layer.rows(weight.half)
    rows = costs(layer.rows(weight.fisher), half) / energy.clamp(min=1e-30)[:, None]
    own = covariance.diagonal(dim1=1, dim2=2)
    if layer.bias_comes_after:  # such a weight's rows are the inputs: no error moves on
        return Importance(np.ones(own.shape[1]), (own[0][:, None] * rows[0]).numpy()), None
    if len(covariance) > 1 or covariance.shape[1] > WIDEST:
        return Importance(rows.flatten().numpy(), own[:, None].expand(*rows.shape, -1).flatten(0, 1).numpy()), None
    if share is None:
        share = 1.0 if found.halves is None else chance(*(half[0].numpy() for half in found.halves))
    return Importance(rows[0].numpy(), moments=shrunk(covariance[0].numpy(), share)), share


@dataclass
class Priced:
    """A network's weights at any price of a bit, and what is lost then.

    Args:
        network: The original.
        data: Its calibration split tells what errors cost, its validation split what is lost.
        lossy: Which parameters take levels, by name; by default every one of two axes and more and of enough values.
        states: Of the trellis.

    Raises:
        ModelRefused: A parameter holds NaN or infinity.
    """

    network: Network
    data: Data
    lossy: tuple[str, ...] = ()
    states: int = 8
    felt: dict[str, Felt] = field(init=False)
    metric: Metric = field(init=False)
    before: Measured = field(init=False)
    batches: list[tuple[Tensor, ...]] = field(init=False)
    answers: list[Tensor] = field(init=False)
    walk: Walk | None = field(init=False)
    shares: dict[str, float] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        module = self.network.module
        for name, value in module.named_parameters():
            if not bool(value.detach().isfinite().all()):
                raise ModelRefused(
                    f"{name} holds NaN or infinity, which no grid can: leave out --max-drop, or repair the network"
                )
        self.felt = felt(module, self._samples(1), classify=self.data.task == "classify", moments=False)
        self.lossy = self.lossy or tuple(
            name
            for name, value in module.named_parameters()
            if name in self.felt and value.numel() >= FEW and value.dtype is torch.float32 and ".parametrizations." not in name
        )
        self.metric = default_metric(self.data)
        self.before = self._measured(self.network)
        self.batches = self._samples(BATCH)
        with torch.no_grad():
            self.answers = [flatten_outputs(module(*inputs))[0] for inputs in self.batches]
        try:
            self.walk = Walk(self.network, self.batches)
        except ModelRefused:  # what cannot be captured has no layers in order: each tensor stands for itself
            self.walk = None

    def at(self, price: float) -> dict[str, Quantized | Array]:
        """The levels of each lossy parameter, and what becomes of biases and normalisations, which make up for them.

        Layers are met in order. Each is fitted to the original's outputs on the inputs that the layers before it, which have
        levels already, really give. What stays continuous then learns the original's answers, and is rounded to short mantissas.
        """
        found = self._levels(price)
        module = self._with(found)
        match_answers(module, self.batches, self.answers, classify=self.data.task == "classify")
        for name, value in module.state_dict().items():
            if value.ndim < 2 and value.dtype is torch.float32 and bool(value.isfinite().all()):
                found[name] = rounded(name, value.numpy()) if value.numel() >= SIDE_FEW else value.numpy()
        return found

    def _levels(self, price: float) -> dict[str, Quantized | Array]:
        """The levels, and the biases and running means that make up for what they do to the mean of each layer's outputs."""
        values = {name: value.detach().cpu() for name, value in self.network.module.named_parameters()}
        layers = self.walk.layer_names() if self.walk else set()
        found: dict[str, Quantized | Array] = {
            name: important_levels(values[name].numpy(), importance_of(self.felt[name]), price, states=self.states)
            for name in self.lossy
            if name not in layers
        }
        if self.walk is None:
            return found
        walk, original = self.walk.again(self.batches), self.walk.again(self.batches).layers()
        for name, value in found.items():
            walk.replace(name, _dense(value))
        for layer in walk.layers():
            wanted = next(each for each in original if each.name == layer.name)  # both run in the same order
            if layer.name in self.lossy and layer.name not in found:
                made = self._fitted(layer, statistics(layer, wanted, halves=True), values[layer.name], price)
                for name, value in made.items():
                    walk.replace(name, _dense(value))
                found |= made
        return found

    def _fitted(self, layer: Layer, found: Statistics, weight: Tensor, price: float) -> dict[str, Quantized | Array]:
        """A layer's levels, and the bias or running mean that gives its outputs the mean that they should have."""
        target = layer.weight(refitted(layer.rows(weight), found, RIDGE), weight)
        importance, share = importance_in(layer, self.felt[layer.name], found, self.shares.get(layer.name))
        if share is not None:
            self.shares[layer.name] = share
        levels = important_levels(target.numpy(), importance, price, states=self.states)
        mean = (layer.rows(_dense(levels)).double() @ found.mean[:, :, None]).squeeze(2)
        lacking = (found.answer - mean).flatten()
        made: dict[str, Quantized | Array] = {layer.name: levels}
        state = self.network.module.state_dict()
        if layer.bias is not None:
            made[layer.bias] = (lacking + (state[layer.bias].cpu() if layer.bias_comes_after else 0)).float().numpy()
        elif layer.centre is not None:
            made[layer.centre] = (state[layer.centre].cpu() - lacking).float().numpy()
        return made

    def drop(self, values: Mapping[str, Quantized | Array]) -> float:
        """The drop on the validation split, and one paired standard error."""
        found = self.before.drop_to(self._measured(replace(self.network, module=self._with(values))))
        return found.value + (found.standard_error if np.isfinite(found.standard_error) else 0.0)

    def _with(self, values: Mapping[str, Quantized | Array]) -> nn.Module:
        """The network's module with these values in it."""
        module = deepcopy(self.network.module)
        state = module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, value in values.items():
                state[name].copy_(_dense(value))
        return module

    def _samples(self, batch: int) -> list[tuple[Tensor, ...]]:
        """Calibration inputs, so many in a batch (as many as the network takes, where it takes only one number)."""
        batch = len(self.network.example_inputs[0]) if self.network.fixed_batch else batch
        samples = (inputs for inputs, _ in self.data.calibration.batches(batch))
        return list(islice(samples, -(-SAMPLES // batch)))

    def _measured(self, network: Network) -> Measured:
        return measure(network.outputs, self.data.validation, self.metric, original=self.network.outputs)


def _dense(value: Quantized | Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.dense() if isinstance(value, Quantized) else value, np.float32))


def within_drop(
    priced: Priced, max_drop: float, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Quantized | Array]:
    """What :meth:`Priced.at` gives at the highest price at which the drop is within the limit; nothing where all lose more.

    Args:
        priced: The network and its data.
        max_drop: The drop that is allowed, 0.01 for one point.
        progress: Told how each price went.
    """
    low, high = np.log(CHEAPEST), np.log(DEAREST)
    best: dict[str, Quantized | Array] = {}
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
