"""Policy: which candidates are worth trying for a goal, and which outcome wins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lissom import edits
from lissom.calibrate.reconstruction import RIDGE
from lissom.data import Data
from lissom.deploy import Deploy
from lissom.errors import ModelRefused
from lissom.graph.capture import capture
from lissom.graph.cost import cost
from lissom.graph.groups import groups
from lissom.job import Job, Step
from lissom.network import Network
from lissom.prune.channels import PruneChannels
from lissom.quantize.weights import QuantizeWeights
from lissom.quantize.within import QuantizeWithin
from lissom.recipe import Recipe
from lissom.search.bisection import Bisection, Candidate, Fixed, Ladder, Search
from lissom.search.curve import Curve
from lissom.search.lighter import Lighter
from lissom.search.limits import Goal, Limits, Ship
from lissom.search.trial import Outcome
from lissom.share import ShareWeights
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune
from lissom.train.rate import Rate

__all__ = ["DEFAULT_MAX_DROP", "choose", "first_candidates", "knob", "lighter", "prunable", "to_size", "turn_further"]

DEFAULT_MAX_DROP = 0.01
"""One point (or 1 %): what a user who gives no limit at all is taken to accept."""

ROUNDS = 4
BELOW = 0.95  # of the size limit is what training aims at: the controller arrives within a few percent
TRAINING_SAMPLES: dict[Goal, int] = {"size": 45_000, "latency": 24_000}
"""Seen by one trial: small data gets more epochs, large data at least two; weights need time to find their way to zero."""
TRAINING_MACS = 1e12  # of the forward passes of one trial: minutes on one core, whatever the network's size
CALIBRATION_MACS = 3e10  # of one pass over the samples that channels are ranked and refitted by: one pass for every layer
LIGHT: dict[Goal, float] = {"latency": 1e7, "size": 1e6}
"""MACs, or parameters, under which no library of lighter parts is made: calls cost more than work, training more than factors."""

SCARCE = 512  # calibration samples under which channels are told apart by measuring, and layers refitted with care
SAME_SIZE = 0.10  # outcomes whose goal differs by less are told apart by divergence, where the data cannot decide


def first_candidates(goal: Goal, limits: Limits) -> tuple[Search, ...]:
    """What is tried before any training: quick, and a result to fall back on.

    Integers that lose more than the limit are tried again, corrected on data, with their worst layers repaired.
    """
    if goal == "latency":
        rounded = [Candidate("int8 static", Recipe(deploy=Deploy(precision="int8")))]
        if limits.max_drop:
            rounded.append(Candidate("int8 repaired", in_integers((), limits)))
        return Fixed((Candidate("float", Recipe()),)), Ladder(tuple(rounded))
    return (Fixed((
        Candidate("8-bit weights", Recipe((QuantizeWeights(bits=8),))),
        Candidate("6-bit codebooks", Recipe((ShareWeights(bits=6),))),
    )),)  # fmt: skip


def in_integers(steps: tuple[Step, ...], limits: Limits) -> Recipe:
    """These steps, and then integers, which are corrected and repaired where a drop is given that they must keep to."""
    if limits.max_drop:
        return Recipe((*steps, QuantizeWithin(max_drop=limits.max_drop)))
    return Recipe(steps, Deploy(precision="int8"))


def to_size(limits: Limits, ship: Ship, network: Network, data: Data) -> Fixed:
    """Training against the file to the very size that is asked for, where only weights ship and so the size is theirs.

    Channels that died on the way are then removed.
    """
    if limits.max_size is None or ship != "weights":
        return Fixed(())
    rate = Rate(max_size=max(1, int(limits.max_size * BELOW)))
    train = Finetune(epochs=Curve.epochs_for(data), distill=Distill(), rate=rate)
    steps: tuple[Step, ...] = (train, PruneChannels(ratio=0)) if prunable(network) else (train,)
    return Fixed((Candidate("trained to the size", Recipe(steps)),))


def knob(goal: Goal, network: Network, data: Data, limits: Limits) -> Search:
    """The search that trains, from mild to extreme: against the file for size, with fewer channels for latency."""
    macs = _macs(network)
    epochs = _epochs(goal, macs, data)
    if goal == "latency":
        recipe_at = partial(latency_recipe, epochs=epochs, limits=limits, samples=_samples(macs))
        return Bisection(recipe_at, rounds=ROUNDS) if prunable(network) else Fixed(())
    return Bisection(partial(size_recipe, epochs=epochs, structure=prunable(network)), rounds=ROUNDS)


def lighter(goal: Goal, network: Network, job: Job, limits: Limits) -> Search:
    """Lighter parts from a library, for networks large enough that it can pay; they need no channels that can go."""
    macs = _macs(network)
    work = macs if goal == "latency" else sum(parameter.numel() for _, parameter in edits.weights(network.module))
    if work < LIGHT[goal]:
        return Fixed(())
    epochs = _epochs(goal, macs, job.data)
    after = partial(lighter_recipe, epochs=epochs, goal=goal, limits=limits)
    return Lighter(network, job, goal, after, min(256, _samples(macs)))


def lighter_recipe(steps: tuple[Step, ...], epochs: int, goal: Goal, limits: Limits) -> Recipe:
    """Lighter parts, trained together to answer as the original does; then integers, or the middle of the size recipes."""
    if goal == "size":
        return Recipe((*steps, *size_recipe(0.5, epochs).steps))
    return in_integers((*steps, Finetune(epochs=epochs, learning_rate=5e-4, distill=Distill())), limits)


def _epochs(goal: Goal, macs: int, data: Data) -> int:
    """Epochs of one trial, by how much data there is and what the network computes."""
    return max(2, min(20, round(min(TRAINING_SAMPLES[goal], TRAINING_MACS / macs) / max(len(data.train), 1))))


def _samples(macs: int) -> int:
    """Calibration samples of one trial."""
    return round(max(32, min(512, CALIBRATION_MACS / macs)))


def size_recipe(strength: float, epochs: int, *, structure: bool = False) -> Recipe:
    """Train against the file: a bit costs more with the strength, which decides sparsity and levels, tensor by tensor.

    Strength 0 takes a thousandth of a nat for a bit, strength 1 four: sizes that differ by a hundred times. With
    ``structure``, channels that training left without a weight go at the end: positions of zeros cost bits too.
    """
    weight = float(f"{0.001 * 4000**strength:.3g}")
    train = Finetune(epochs=epochs, distill=Distill(), rate=Rate(weight=weight))
    return Recipe((train, *[PruneChannels(ratio=0)] * structure))


def latency_recipe(strength: float, epochs: int, limits: Limits, samples: int = 512) -> Recipe:
    """Remove channels by what they matter to the loss, train what is left, and run it in integers.

    Strength 0 keeps nine tenths of the multiply-accumulates, strength 1 a tenth.
    """
    scarce = samples < SCARCE
    fewer = PruneChannels(
        macs=round(0.9 - 0.8 * strength, 4), measured=scarce, multiple=4, ridge=None if scarce else RIDGE, samples=samples
    )
    return in_integers((fewer, Finetune(epochs=epochs, learning_rate=5e-4, distill=Distill())), limits)


def _macs(network: Network) -> int:
    """Multiply-accumulates of one sample; 1 where nobody knows: a trial of what computes much sees fewer samples."""
    try:
        return max(1, cost(network, capture(network)).macs)
    except ModelRefused:
        return 1


def prunable(network: Network) -> bool:
    """Whether the graph has channels that can go."""
    try:
        return bool(groups(capture(network)))
    except ModelRefused:
        return False


def turn_further(outcome: Outcome, limits: Limits, ship: Ship) -> bool:
    """Whether there is room to compress more: within the drop where one is given, else until the size is met."""
    if outcome.refused_because:
        return False
    if limits.max_drop is None:
        return bool(outcome.excess(limits, ship))
    return "max_drop" not in outcome.excess(limits, ship)


def choose(outcomes: Sequence[Outcome], limits: Limits, goal: Goal, ship: Ship) -> Outcome | None:
    """The outcome that wins: within every limit and best by the goal; else the one that exceeds its limits least.

    With a size limit and no accuracy limit, the least drop within the size wins. Where the data is too small to tell
    drops from the limit, outcomes within 10 % of the best by the goal are told apart by their mean divergence from
    the original's outputs.
    """
    made = [outcome for outcome in outcomes if not outcome.refused_because]
    if not made:
        return None
    within = [outcome for outcome in made if not outcome.excess(limits, ship)]
    if not within:
        return min(made, key=lambda outcome: max(outcome.excess(limits, ship).values()))

    def cost(outcome: Outcome) -> float:
        if goal == "latency":
            return outcome.latency or float("inf")
        if limits.max_drop is None and limits.max_size is not None:
            return outcome.drop or 0.0
        return float(outcome.shipped(ship) or float("inf"))

    best = min(within, key=cost)
    undecided = best.standard_error is None or best.standard_error > (limits.max_drop or 0.0) / 2
    near = [outcome for outcome in within if cost(outcome) <= cost(best) * (1 + SAME_SIZE)]
    return min(near, key=lambda outcome: outcome.divergence or 0.0) if undecided and cost(best) > 0 else best
