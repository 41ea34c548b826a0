"""Equalisation changes no answer, and makes one scale per tensor fit."""

from __future__ import annotations

import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.equalize import EqualizeLayers
from lissom.quantize.weights import QuantizeWeights
from lissom.train.losses import default_loss


def _job(network: Network) -> Job:
    data = Data.of(Arrays((torch.randn(20, 3, 8, 8).numpy(),)), seed=0)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def _made(activation: nn.Module) -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), activation, nn.Conv2d(8, 8, 3, groups=8), activation, nn.Conv2d(8, 4, 1)
    )
    with torch.no_grad():
        module[0].weight.mul_(torch.logspace(-2, 1, 8).reshape(-1, 1, 1, 1))
        module[1].running_mean.normal_()
    return Network(module, (torch.randn(2, 3, 8, 8),))


def test_answers_stay_and_rounding_per_tensor_costs_less() -> None:
    made = _made(nn.ReLU())
    job = _job(made)
    equal = EqualizeLayers().apply(made, job)
    inputs = torch.randn(16, 3, 8, 8)
    wanted = made.outputs(inputs)[0]
    torch.testing.assert_close(equal.outputs(inputs)[0], wanted, rtol=1e-3, atol=1e-4)
    assert "2 pairs" in equal.notes[-1]
    step = QuantizeWeights(bits=6, granularity="tensor")
    errors = [float((step.apply(network, job).outputs(inputs)[0] - wanted).square().mean()) for network in (made, equal)]
    assert errors[1] < 0.5 * errors[0]


def test_a_relu6_stops_it_and_edits_are_left_alone() -> None:
    made = _made(nn.ReLU6())
    assert "0 pairs" in EqualizeLayers().apply(made, _job(made)).notes[-1]
    masked = edits.copy(_made(nn.ReLU()))
    edits.attach(masked.module, "3.weight", mask=torch.ones(8, 1, 3, 3, dtype=torch.bool))
    assert "0 pairs" in EqualizeLayers().apply(masked, _job(masked)).notes[-1]
