"""RoundWeights: nearer to the float network than rounding to nearest, weight-only and in the quantized graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import deploy, verify
from lissom.grids import Affine
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.rounding import RoundWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.train.losses import default_loss


@pytest.fixture(scope="module")
def made() -> tuple[Network, Job, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    images = torch.randn(160, 3, 8, 8).cumsum(2)  # neighbours are alike, as in pictures
    module.train()
    module(images)
    network = Network(module, (images[:2],))
    return network, _job(network, images[:128]), images[128:]


def _job(network: Network, inputs: torch.Tensor) -> Job:
    data = Data.of(Arrays((inputs.numpy(),)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def _error(network: Network, original: Network, inputs: torch.Tensor) -> float:
    got, wanted = network.outputs(inputs)[0], original.outputs(inputs)[0]
    return float((got - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@pytest.mark.parametrize("granularity", ["channel", 4])
def test_weights_alone(method: Any, granularity: Any, made: tuple[Network, Job, torch.Tensor]) -> None:
    network, job, unseen = made
    plain = QuantizeWeights(bits=3, granularity=granularity).apply(network, job)
    rounded = RoundWeights(bits=3, granularity=granularity, method=method).apply(network, job)
    assert _error(rounded, network, unseen) < 0.5 * _error(plain, network, unseen)
    for name in edits.selected(rounded.module):
        grid = edits.edit_of(rounded.module, name).grid
        assert isinstance(grid, Affine)
        assert (grid.lowest, grid.highest) == (-3, 3)


@pytest.mark.parametrize("types", ["U8S4", "U4S4"])
def test_the_quantized_graph(types: Any, made: tuple[Network, Job, torch.Tensor]) -> None:
    network, job, unseen = made
    graph = QuantizeActivations(types=types, target="onnxruntime-cpu", ranges="mse").apply(network, job)
    plain = QuantizeWeights(bits=4).apply(graph, job)
    rounded = RoundWeights(bits=4).apply(graph, job)
    assert _error(rounded, network, unseen) < 0.8 * _error(plain, network, unseen)
    assert verify(deploy(rounded), rounded, [(unseen,)]).kind == "integer"
    highest = [edits.edit_of(rounded.module, name).grid.highest for name in edits.selected(rounded.module)]
    assert highest == [127, 7, 7, 127]


def test_what_no_layer_multiplies_by_is_left_alone_and_named() -> None:
    torch.manual_seed(0)
    network = Network(nn.LSTM(4, 4, batch_first=True), (torch.randn(2, 5, 4),))
    rounded = RoundWeights().apply(network, _job(network, torch.randn(32, 5, 4)))
    assert not edits.edited(rounded.module)
    assert "no layer" in rounded.notes[0]


def test_a_quantized_graph_is_not_quantized_again(made: tuple[Network, Job, torch.Tensor]) -> None:
    network, job, _ = made
    step = QuantizeActivations(target="onnxruntime-cpu", types="U8S8", ranges="minmax")
    again = step.apply(step.apply(network, job), job)
    assert "not quantized again" in again.notes[-1]


def test_products_over_a_sequence(made: tuple[Network, Job, torch.Tensor]) -> None:
    """Linear layers over three axes become products whose weights stand the other way round in the graph."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6))
    inputs = torch.randn(96, 5, 12) @ torch.randn(12, 12)
    network = Network(module, (inputs[:2],))
    job = _job(network, inputs[:64])
    step = QuantizeActivations(types="U8S4", target="onnxruntime-cpu", ranges="mse")
    graph = step.apply(network, job)
    plain, rounded = QuantizeWeights(bits=4).apply(graph, job), RoundWeights(bits=4).apply(graph, job)
    assert _error(rounded, network, inputs[64:]) < _error(plain, network, inputs[64:]) < 0.1
    deployed = deploy(rounded)
    assert verify(deployed, rounded, [(inputs[64:],)]).kind == "integer"
    held = {name: stored for name, stored in deployed.parts()[1].items() if name.endswith("weight")}
    for name, stored in held.items():
        assert stored.shape == dict(module.named_parameters())[name].shape
        assert stored.decoding.scale.size == stored.shape[0]
