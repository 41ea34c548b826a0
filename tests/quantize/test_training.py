"""Quantization-aware training of the graph that is deployed: steps learn, the file answers as what was trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import deploy
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.weights import QuantizeWeights
from lissom.runtimes import open_file
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss


@pytest.mark.parametrize("grid", ["affine", "learned-affine"])
def test_training_brings_the_graph_nearer_to_its_teacher(grid: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5))
    inputs = torch.randn(320, 12)
    network = Network(module, (inputs[:2],))
    data = Data.of(Arrays((inputs[:256].numpy(),)), seed=0)
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)
    graph = QuantizeActivations(types="U4S4", target="onnxruntime-cpu", ranges="minmax").apply(network, job)
    quantized = QuantizeWeights(bits=3, grid=grid).apply(graph, job)
    optimizer = Optimizer(name="Adam")
    train = Finetune(epochs=20, learning_rate=3e-3, batch_size=16, distill=Distill(weight=1.0), optimizer=optimizer)
    trained = train.apply(quantized, job)

    def error(made: Network) -> float:
        return float((made.outputs(inputs[256:])[0] - network.outputs(inputs[256:])[0]).square().mean())

    assert error(trained) < 0.7 * error(quantized)
    before, after = (dict(made.module.named_parameters()) for made in (quantized, trained))
    steps = [name for name in before if name.endswith("scale")]
    assert steps
    assert any(not torch.equal(before[name], after[name]) for name in steps)
    if grid == "learned-affine":
        learned = [edit.grid for edit in edits.edited(trained.module).values()]
        assert all(bool(found.log_ratio.detach().abs().max() > 0) for found in learned)
    written = open_file(deploy(trained).to_bytes(), optimize=False)(inputs[256:].numpy())[0]
    np.testing.assert_allclose(written, trained.outputs(inputs[256:])[0].numpy(), atol=1e-3)
