"""The contract: every step against every property that a user relies on. A new step is a new row."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom import edits
from lissom.codec.tensors import Quantized
from lissom.grids import Grid
from lissom.grids.fitting import FITS
from lissom.job import Step
from lissom.network import Network
from lissom.prune.l1 import L1Regularise
from lissom.prune.schedule import PolynomialDecay
from lissom.prune.weights import PruneWeights
from lissom.quantize.mixed import MixedPrecision
from lissom.quantize.rounding import RoundWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.share import ShareWeights
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune

from .networks import NETWORKS, network_of, same_bits, state


@dataclass(frozen=True)
class Row:
    """A step, and whether a second application changes nothing."""

    step: Step
    idempotent: bool = True


STEPS: dict[str, Row] = {
    "magnitude": Row(PruneWeights(sparsity=0.5)),
    "by layer": Row(PruneWeights(sparsity={"*weight*": 0.3})),
    "threshold": Row(PruneWeights(threshold=0.1)),
    "global": Row(PruneWeights(sparsity=0.4, allocation="global")),
    "scaled": Row(PruneWeights(sparsity=0.4, allocation="scaled"), idempotent=False),
    "lamp": Row(PruneWeights(sparsity=0.4, allocation="lamp")),
    "own": Row(PruneWeights(sparsity=0.4, allocation="own"), idempotent=False),
    "sensitivity": Row(PruneWeights(sparsity=0.5, allocation="sensitivity"), idempotent=False),
    "taylor": Row(PruneWeights(sparsity=0.4, importance="taylor")),
    "gradient": Row(PruneWeights(sparsity=0.4, importance="gradient")),
    "fisher": Row(PruneWeights(sparsity=0.4, importance="fisher", samples=8)),
    "saliency": Row(PruneWeights(sparsity=0.4, importance="saliency", samples=8)),
    "entropy": Row(PruneWeights(sparsity=0.4, importance="entropy")),
    "share": Row(ShareWeights(bits=3)),
    "share exactly": Row(ShareWeights(entries=5, start="exact")),
    "share at random": Row(ShareWeights(bits=2, start="random")),
    "share globally": Row(ShareWeights(bits=3, start="density", scope="global")),
    "share blocks": Row(ShareWeights(block=3)),
    "int8": Row(QuantizeWeights(bits=8)),
    "uint4": Row(QuantizeWeights(bits=4, symmetric=False, granularity="tensor", range="mse")),
    "groups": Row(QuantizeWeights(bits=4, granularity=3)),
    "floor": Row(QuantizeWeights(bits=5, rounding="floor")),
    "stochastic": Row(QuantizeWeights(bits=4, rounding="stochastic")),
    **{f"grid {name}": Row(QuantizeWeights(grid=name)) for name in FITS if name != "affine"},
    "gptq": Row(RoundWeights(bits=4)),
    "adaround": Row(RoundWeights(bits=4, method="adaround", granularity=3, samples=16)),
    "mixed precision": Row(MixedPrecision(signal_to_noise=18, samples=8)),
    "train": Row(Finetune(epochs=1, learning_rate=1e-2, batch_size=8), idempotent=False),
    "distill": Row(Finetune(epochs=1, batch_size=8, distill=Distill()), idempotent=False),
    "prune gradually": Row(
        Finetune(epochs=2, batch_size=8, during=PruneWeights(schedule=PolynomialDecay(final=0.5))), idempotent=False
    ),
    "against the file": Row(Finetune(epochs=2, learning_rate=1e-2, batch_size=8, rate=0.1), idempotent=False),
    "shrink": Row(Finetune(epochs=2, batch_size=8, during=L1Regularise(strength=2.0)), idempotent=False),
}

LATER = (
    "magnitude",
    "lamp",
    "taylor",
    "share",
    "share globally",
    "share blocks",
    "int8",
    "groups",
    "gptq",
    "train",
    "against the file",
    "prune gradually",
    "shrink",
)
"""Steps of every kind, to come after each of the others."""

ALL = list(product(STEPS, NETWORKS))


def weights_of(network: Network) -> list[str]:
    return edits.selected(network.module)


@pytest.mark.parametrize(("step", "kind"), ALL)
def test_input_is_untouched_and_form_is_kept(step: str, kind: str) -> None:
    network, job = network_of(kind)
    before, answers = state(network), network.outputs(*network.example_inputs)
    after = STEPS[step].step.apply(network, job)

    assert same_bits(before, state(network))
    assert not any(parametrize.is_parametrized(part) for part in network.module.modules())
    assert torch.equal(answers[0], network.outputs(*network.example_inputs)[0])
    assert not network.module.training
    assert not after.module.training
    changed = state(after)
    assert {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in before.items()} == {
        name: (changed[name].shape, changed[name].dtype, changed[name].device) for name in changed
    }
    moved = after.outputs(*after.example_inputs)[0]
    assert (moved.shape, moved.dtype) == (answers[0].shape, answers[0].dtype)
    assert bool(torch.isfinite(moved).all())
    assert not torch.equal(moved, answers[0])


@pytest.mark.parametrize(("step", "kind"), ALL)
def test_deterministic_by_seed(step: str, kind: str) -> None:
    network, job = network_of(kind)
    first = STEPS[step].step.apply(network, job)
    torch.manual_seed(99)
    second = STEPS[step].step.apply(network, job)
    assert same_bits(state(first), state(second))
    assert first.notes == second.notes


@pytest.mark.parametrize("step", STEPS)
def test_round_trips_through_yaml(step: str) -> None:
    recipe = Recipe((STEPS[step].step,))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(("step", "kind"), [(step, kind) for step, kind in ALL if STEPS[step].idempotent])
def test_idempotent_where_claimed(step: str, kind: str) -> None:
    network, job = network_of(kind)
    once = STEPS[step].step.apply(network, job)
    twice = STEPS[step].step.apply(once, job)
    assert same_bits(state(once), state(twice))


@pytest.mark.parametrize(("step", "kind"), ALL)
def test_stored_tensors_and_baked_module_are_exact(step: str, kind: str) -> None:
    network, job = network_of(kind)
    after = STEPS[step].step.apply(network, job)
    answers, expected = after.outputs(*after.example_inputs)[0], state(after)
    stored = edits.tensors(after.module)
    assert stored.keys() == expected.keys()
    for name, kept in stored.items():
        dense = kept.dense() if isinstance(kept, Quantized) else kept
        assert np.asarray(dense).astype(expected[name].numpy().dtype).tobytes() == expected[name].numpy().tobytes()
    module = edits.bake(edits.copy(after).module)
    assert not any(parametrize.is_parametrized(part) for part in module.modules())
    assert same_bits(module.state_dict(), expected)
    assert torch.equal(Network(module, after.example_inputs).outputs(*after.example_inputs)[0], answers)


@pytest.mark.parametrize("kind", ["lstm", "tied", "conv"])
@pytest.mark.parametrize("first", STEPS)
def test_later_steps_undo_nothing(first: str, kind: str) -> None:
    network, job = network_of(kind)
    once = STEPS[first].step.apply(network, job)
    for second in LATER:
        twice = STEPS[second].step.apply(once, job)
        for name in weights_of(network):
            after, masked = edits.value(twice.module, name), _mask(once, name)
            assert bool((after[masked] == 0).all()), (second, name)
            assert not bool(torch.signbit(after[masked]).any()), (second, name)
            edit = edits.edit_of(once.module, name)
            if edit is not None and edit.grid is not None:
                _still_on_grid(edit.grid, twice, name)


def _mask(network: Network, name: str) -> Tensor:
    edit = edits.edit_of(network.module, name)
    if edit is None or edit.mask is None:
        return torch.zeros_like(edits.value(network.module, name), dtype=torch.bool)
    return ~edit.mask


def _still_on_grid(grid: Grid, later: Network, name: str) -> None:
    """The same grid, whose trained values (centroids, scales) may have moved, gives every value that is not masked."""
    edit = edits.edit_of(later.module, name)
    assert edit is not None
    assert type(edit.grid) is type(grid)
    assert all(torch.equal(buffer, edit.grid.get_buffer(key)) for key, buffer in grid.named_buffers())
    after, latent = edits.value(later.module, name), edits.latent(later.module, name)
    kept = after != 0
    assert torch.equal(edit.grid.values(edit.grid.levels(latent))[kept].to(after.dtype), after[kept])


def test_three_in_a_row_keep_all() -> None:
    """The loop of Deep Compression, with training between, on every network."""
    for kind in NETWORKS:
        network, job = network_of(kind)
        steps: list[Step] = [
            PruneWeights(sparsity=0.6), Finetune(epochs=1, batch_size=8), ShareWeights(bits=2),
            Finetune(epochs=1, batch_size=8, learning_rate=1e-2), PruneWeights(sparsity=0.7), QuantizeWeights(bits=8),
        ]  # fmt: skip
        stages = [network]
        for step in steps:
            stages.append(step.apply(stages[-1], job))
        for earlier, later in pairwise(stages):
            for name in weights_of(network):
                assert bool((edits.value(later.module, name)[_mask(earlier, name)] == 0).all())
        for name in weights_of(network):
            values = edits.value(stages[-1].module, name)
            assert float((values == 0).float().mean()) >= 0.65
            assert values.unique().numel() <= 4
        assert any("already" in note for note in stages[-1].notes)


def test_half_precision_stays_half() -> None:
    network = Network(nn.Sequential(nn.Linear(6, 4)).to(torch.bfloat16), (torch.zeros(2, 6, dtype=torch.bfloat16),))
    _, job = network_of("mlp")
    for row in (STEPS["magnitude"], STEPS["share"], STEPS["int8"], STEPS["groups"]):
        after = row.step.apply(network, job)
        assert after.outputs(*after.example_inputs)[0].dtype == torch.bfloat16
        assert state(after)["0.weight"].dtype == torch.bfloat16
        stored = edits.tensors(after.module)["0.weight"]
        dense = stored.dense() if isinstance(stored, Quantized) else stored
        assert dense.dtype.name == "bfloat16"
        assert np.array_equal(dense.astype(np.float32), state(after)["0.weight"].float().numpy())
