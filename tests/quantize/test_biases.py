"""CorrectBias: the mean of each layer's outputs is what it was before the weights were rounded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom import edits
from lissom.calibrate.second_order import mean_error
from lissom.calibrate.walk import Walk
from lissom.data import Arrays, Data
from lissom.deploy import deploy, verify
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.biases import CorrectBias, clipped_normal_mean
from lissom.quantize.weights import QuantizeWeights
from lissom.train.losses import default_loss


@pytest.fixture(scope="module")
def made() -> tuple[Network, Job, Tensor]:
    """Convolutions with normalisations of known statistics, and a layer with a bias after them."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6(), nn.Conv2d(12, 6, 1),
    )  # fmt: skip
    for part in module:
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias, 1.0)
            nn.init.uniform_(part.weight, 0.5, 2.0)
            part.momentum = None
    images = torch.randn(256, 3, 10, 10)
    module.train()
    module(images)
    network = Network(module, (images[:2],))
    data = Data.of(Arrays((images[:128].numpy(),)), seed=0)
    return network, Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network), images[128:]


def _mean_error(network: Network, original: Network, inputs: Tensor) -> float:
    return float((network.outputs(inputs)[0] - original.outputs(inputs)[0]).mean((0, 2, 3)).abs().mean())


@pytest.mark.parametrize("method", ["empirical", "analytic"])
def test_the_mean_comes_back(method: Any, made: tuple[Network, Job, Tensor]) -> None:
    network, job, unseen = made
    rounded = QuantizeWeights(bits=3, granularity="tensor").apply(network, job)
    corrected = CorrectBias(method=method).apply(rounded, job)
    assert _mean_error(corrected, network, unseen) < 0.5 * _mean_error(rounded, network, unseen)
    for name in edits.selected(network.module):
        assert torch.equal(edits.value(corrected.module, name), edits.value(rounded.module, name))


def test_a_layer_whose_inputs_nobody_knows_is_named(made: tuple[Network, Job, Tensor]) -> None:
    network, job, _ = made
    rounded = QuantizeWeights(bits=3).apply(network, job)
    assert CorrectBias(method="analytic").apply(rounded, job).notes[-1].endswith("cannot be corrected without data: 0.weight")


def test_nothing_moves_where_nothing_is_rounded(made: tuple[Network, Job, Tensor]) -> None:
    network, job, unseen = made
    assert torch.equal(CorrectBias().apply(network, job).outputs(unseen)[0], network.outputs(unseen)[0])


def test_the_quantized_graph(made: tuple[Network, Job, Tensor]) -> None:
    network, job, unseen = made
    graph = QuantizeActivations(types="U8S4", target="onnxruntime-cpu", ranges="mse").apply(network, job)
    rounded = QuantizeWeights(bits=4).apply(graph, job)
    corrected = CorrectBias().apply(rounded, job)
    assert _mean_error(corrected, network, unseen) < 0.7 * _mean_error(rounded, network, unseen)
    assert verify(deploy(corrected), corrected, [(unseen[:64],)]).holds


def test_what_a_relu_cuts_off_does_not_count() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network, inputs = Network(module, (torch.zeros(2, 4),)), torch.randn(4000, 4)
    network.module[0].bias.data.zero_()
    moved = edits.copy(network)
    with torch.no_grad():
        moved.module[0].weight *= 0.98
    layer, wanted = (next(Walk(either, [(inputs,)]).layers()) for either in (moved, network))
    lacking = module[0](inputs).detach() * 0.02
    found = mean_error(layer, wanted)
    assert bool((lacking.mean(0).abs() < 2e-3).all())  # what is cut off would hide it
    torch.testing.assert_close(found.float(), lacking.clamp(min=0).sum(0) / (lacking > 0).sum(0), rtol=0.15, atol=0)


@settings(deadline=None, max_examples=25)
@given(st.floats(-3, 3), st.floats(0.1, 3), st.sampled_from([(0.0, math.inf), (0.0, 6.0), (-math.inf, math.inf), (-1.0, 1.0)]))
def test_the_mean_of_a_clipped_normal(mean: float, deviation: float, ends: tuple[float, float]) -> None:
    points = torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000) * deviation + mean
    found = clipped_normal_mean(torch.tensor([mean], dtype=torch.float64), torch.tensor([deviation], dtype=torch.float64), *ends)
    assert float(found) == pytest.approx(float(points.clamp(*ends).mean()), abs=1e-3)
