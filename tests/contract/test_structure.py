"""The contract of the steps that change shapes: a new one is a new row."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from lissom import edits
from lissom.errors import ModelRefused
from lissom.factorize import Factorize
from lissom.graph.capture import capture
from lissom.graph.structure import apply_structure, structure_from_json, structure_to_json
from lissom.job import Step
from lissom.lighten import Lighten
from lissom.network import Network
from lissom.prune.channels import PruneChannels
from lissom.prune.heads import PruneHeads
from lissom.prune.layers import PruneLayers
from lissom.prune.weights import PruneWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.substitute import Substitute
from lissom.train.finetune import Finetune

from .networks import NETWORKS, network_of, same_bits, state

STEPS: dict[str, Step] = {
    "channels": PruneChannels(ratio=0.5, samples=16),
    "channels by l1": PruneChannels(ratio=0.4, scope="group", importance="l1", multiple=2),
    "channels for MACs": PruneChannels(macs=0.6, importance="taylor", samples=16),
    "channels and training": PruneChannels(
        ratio=0.5, rounds=2, importance="activity", samples=16, finetune=Finetune(epochs=1, batch_size=16)
    ),
    "dead channels": PruneChannels(ratio=0),
    "heads": PruneHeads(ratio=0.5, importance="l2"),
    "layers": PruneLayers(count=1, samples=16),
    "factors": Factorize(ratio=0.6, samples=16),
    "factors of weights": Factorize(energy=0.8, samples=0),
    "separable": Substitute(kind="separable", samples=16),
    "narrow": Substitute(kind="narrow", samples=16),
    "lighter": Lighten(parts=(Substitute(kind="grouped", samples=16), Factorize(ratio=0.6, samples=16))),
}

ALL = list(product(STEPS, NETWORKS))


@pytest.mark.parametrize(("step", "kind"), ALL)
def test_a_smaller_network_of_the_same_form_the_same_each_time_and_again_from_its_structure(step: str, kind: str) -> None:
    network, job = network_of(kind)
    before, answers = state(network), network.outputs(*network.example_inputs)
    after = STEPS[step].apply(network, job)
    assert same_bits(before, state(network))
    assert torch.equal(answers[0], network.outputs(*network.example_inputs)[0])
    assert not network.module.training
    assert not after.module.training
    moved = after.outputs(*after.example_inputs)[0]
    assert (moved.shape, moved.dtype) == (answers[0].shape, answers[0].dtype)
    assert bool(torch.isfinite(moved).all())
    changed = state(after)
    same = {name: (tensor, before[name]) for name, tensor in changed.items() if name in before}
    assert all(new.dtype == old.dtype and new.numel() <= old.numel() for new, old in same.values())
    assert sum(tensor.numel() for tensor in changed.values()) <= sum(tensor.numel() for tensor in before.values())
    assert after.slices or after.notes or step in ("dead channels", "heads", "channels by l1", "channels for MACs")

    torch.manual_seed(99)
    assert same_bits(changed, state(STEPS[step].apply(network, job)))

    fresh = apply_structure(network_of(kind)[0].module, structure_from_json(structure_to_json(after.slices)))
    fresh.load_state_dict(changed)
    assert torch.equal(Network(fresh, after.example_inputs).outputs(*after.example_inputs)[0], moved)


@pytest.mark.parametrize("step", STEPS)
def test_round_trips_through_yaml(step: str) -> None:
    recipe = Recipe((STEPS[step],))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("kind", ["conv", "lstm", "tied", "attention"])
@pytest.mark.parametrize("step", ["channels", "dead channels", "layers", "factors", "lighter"])
def test_zeros_and_levels_survive_and_training_goes_on(step: str, kind: str) -> None:
    network, job = network_of(kind)
    masked = PruneWeights(sparsity=0.5).apply(network, job)
    quantized = QuantizeWeights(bits=4).apply(masked, job)
    after = STEPS[step].apply(quantized, job)
    trained = Finetune(epochs=1, batch_size=16).apply(after, job)
    for name in edits.selected(after.module):
        mask = edits.edit_of(after.module, name).mask
        value = edits.value(after.module, name)
        assert bool((value[~mask] == 0).all())
        assert bool((edits.value(trained.module, name)[~mask] == 0).all())
        assert set(value.unique().tolist()) <= set(edits.value(quantized.module, name).unique().tolist())


def test_steps_compose_and_shapes_only_shrink() -> None:
    for kind in ("conv", "attention"):
        network, job = network_of(kind)
        macs = capture(network).macs
        for step in (STEPS["channels"], STEPS["heads"], STEPS["lighter"], PruneWeights(sparsity=0.3), STEPS["dead channels"]):
            network = step.apply(network, job)
            left = capture(network).macs
            assert left <= macs
            macs = left


def test_a_network_whose_graph_cannot_be_captured_is_refused_by_name() -> None:
    class Branching(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    _, job = network_of("mlp")
    for step in ("channels", "dead channels", "heads"):
        with pytest.raises(ModelRefused, match="control flow that depends on data"):
            STEPS[step].apply(Network(Branching(6, 3), (torch.randn(2, 6),)), job)
