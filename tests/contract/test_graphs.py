"""The contract of the steps that make the network its deployed graph: a new one is a new row."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from lissom.deploy import deploy
from lissom.job import Step
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.within import QuantizeWithin
from lissom.recipe import Recipe

from .networks import NETWORKS, network_of, same_bits, state

STEPS: dict[str, Step] = {
    "activations": QuantizeActivations(types="U8S8", target="onnxruntime-cpu"),
    "activations of few bits": QuantizeActivations(types="U4S4", target="onnxruntime-cpu", ranges="mse"),
    "within a drop": QuantizeWithin(max_drop=0.6, types="U8S8", target="onnxruntime-cpu"),
    "within no drop": QuantizeWithin(max_drop=1e-6, bits=4, types="U8S4", target="onnxruntime-cpu", method="nearest"),
}

ALL = [(step, kind) for step, kind in product(STEPS, NETWORKS) if step != "within no drop" or kind in ("conv", "twice")]


@pytest.mark.parametrize(("step", "kind"), ALL)
def test_the_input_is_untouched_and_the_graph_is_the_same_each_time_and_stays(step: str, kind: str) -> None:
    network, job = network_of(kind)
    before, answers = state(network), network.outputs(*network.example_inputs)
    after = STEPS[step].apply(network, job)
    assert same_bits(before, state(network))
    assert torch.equal(answers[0], network.outputs(*network.example_inputs)[0])
    moved = after.outputs(*after.example_inputs)[0]
    assert (moved.shape, moved.dtype) == (answers[0].shape, answers[0].dtype)
    assert bool(torch.isfinite(moved).all())
    assert not after.module.training

    torch.manual_seed(99)
    again = STEPS[step].apply(network, job)
    assert same_bits(state(after), state(again))
    assert deploy(after).to_bytes() == deploy(again).to_bytes()
    for other in STEPS.values():
        twice = other.apply(after, job)
        assert same_bits(state(after), state(twice))
        assert "quantized already" in twice.notes[-1]


@pytest.mark.parametrize("step", STEPS)
def test_round_trips_through_yaml(step: str) -> None:
    recipe = Recipe((STEPS[step],))
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
