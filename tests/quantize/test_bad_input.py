"""Bad input to quantization: what is odd still works, what cannot work is refused in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lissom.data import Arrays, Data, Split
from lissom.deploy import Deploy, deploy
from lissom.errors import DataRefused, LissomError, UsageError
from lissom.grids.fitting import FITS, Wanted
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.rounding import RoundWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.runtimes import open_file
from lissom.train.losses import default_loss


def _job(network: Network, inputs: torch.Tensor) -> Job:
    samples = Arrays((inputs.numpy(),))
    every = Split("calibration", samples, np.arange(len(inputs)))
    data = Data(Split("train", samples, every.numbers), every, Split("validation", samples, every.numbers), every, task="agree")
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


@pytest.mark.parametrize("name", FITS)
def test_constant_and_all_zero_channels(name: str) -> None:
    weight = torch.randn(4, 6)
    weight[1], weight[2] = 0.0, 0.25
    for axis in (None, 0):
        values = FITS[name](weight, Wanted(bits=4, channel_axis=axis))(weight).detach()
        assert bool(torch.isfinite(values).all())
    for flat in (torch.zeros(3, 4), torch.full((3, 4), 0.5)):
        assert bool(torch.isfinite(FITS[name](flat, Wanted(bits=4, channel_axis=0))(flat)).all())


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("name", FITS)
def test_infinities_are_refused(name: str, bad: float) -> None:
    weight = torch.randn(4, 6)
    weight[0, 0] = bad
    with pytest.raises(DataRefused, match="NaN or infinity"):
        FITS[name](weight, Wanted(bits=4, channel_axis=0))


def test_rounding_with_dead_channels_and_one_sample() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        module[0].weight[1] = 0
        module[0].bias[1] = -1
    network = Network(module, (torch.zeros(2, 6),))
    for method in ("gptq", "adaround"):
        rounded = RoundWeights(bits=4, method=method).apply(network, _job(network, torch.randn(1, 6)))
        inputs = torch.randn(50, 6)
        got, wanted = rounded.outputs(inputs)[0], network.outputs(inputs)[0]
        assert float((got - wanted).square().sum()) < 0.5 * float(wanted.square().sum())


def test_calibration_of_one_sample_and_of_a_constant() -> None:
    torch.manual_seed(0)
    made = Network(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (torch.zeros(2, 6),))
    for sample in (torch.randn(1, 6), torch.zeros(4, 6)):
        deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [(sample,)])
        assert np.isfinite(open_file(deployed.to_bytes())(np.ones((2, 6), np.float32))[0]).all()


def test_calibration_of_the_wrong_layout_is_refused() -> None:
    made = Network(nn.Conv2d(3, 4, 3), (torch.zeros(2, 3, 8, 8),))
    with pytest.raises(LissomError, match=r"does not run on float32 \[1, 8, 8, 3\]"):
        deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [(torch.randn(4, 8, 8, 3),)])


def test_operators_without_an_integer_kernel_stay_float_and_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.head(self.lstm(x)[0][:, -1]), 1)

    made = Network(Recurrent(), (torch.zeros(2, 5, 4),))
    deployed = deploy(made, Deploy(precision="int8", target="onnxruntime-cpu"), [(torch.randn(16, 5, 4),)])
    assert "1 LSTM" in deployed.notes[-1]
    assert "1 Softmax" in deployed.notes[-1]


def test_one_bit_that_collapses_a_layer_is_refused_with_the_measured_error() -> None:
    network = Network(nn.Linear(200, 3), (torch.zeros(2, 200),))
    with torch.no_grad():
        network.module.weight.zero_()
        network.module.weight[:, 0] = 5.0
        network.module.weight[:, 1:] = torch.rand(3, 199) * 1e-3
    job: Any = _job(network, torch.randn(40, 200))
    with pytest.raises(UsageError, match=r"weight on a grid of one bit keeps \d+% of its energy"):
        QuantizeWeights(grid="binary").apply(network, job)
    QuantizeWeights(grid="ternary").apply(network, job)
