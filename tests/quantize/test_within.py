"""QuantizeWithin: the layer that costs most is found, and repaired first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lissom
from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.layer_costs import layer_costs
from lissom.deploy.pipeline import plain
from lissom.deploy.static import Static
from lissom.errors import UsageError
from lissom.job import Job
from lissom.measure.metrics import cosine_agreement, default_metric, measure
from lissom.network import Network
from lissom.quantize.within import QuantizeWithin
from lissom.runtimes import open_file
from lissom.runtimes.network import file_network
from lissom.search.limits import Limits
from lissom.search.policy import first_candidates, turn_further
from lissom.search.trial import Trials
from lissom.search.workspace import Workspace
from lissom.train.losses import default_loss

TARGET = "onnxruntime-cpu"


def _job(network: Network, inputs: Tensor) -> Job:
    data = dataclasses.replace(Data.of(Arrays((inputs.numpy(),)), seed=0), task="classify")
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def _module() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5))
    for layer in module[::2]:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return module


@pytest.fixture(scope="module")
def made() -> tuple[Network, Job, Tensor]:
    """Three layers, of which the second has one weight in each channel beside which all others vanish in 4 bits."""
    module = _module()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = 0.0, 1.0  # what the large weights read is constant
        module[2].weight[:, 0] = 6.0
        module[2].bias -= 6.0
    inputs = torch.randn(400, 12)
    network = Network(module, (inputs[:2],))
    return network, _job(network, inputs), inputs


@pytest.fixture(scope="module")
def outlier() -> tuple[Network, Job, Tensor]:
    """The same in 8 bits: the second layer reads one channel that is 3,000 times the others, and lies at that, more or less."""
    module = _module()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = 0.05 * torch.randn(12), 3000.0
        module[2].weight[:, 0] = 0.05
        module[2].bias -= 150.0
    inputs = torch.randn(600, 12)
    network = Network(module, (inputs[:2],))
    return network, _job(network, inputs), inputs


def test_the_costliest_layer_is_found(made: tuple[Network, Job, Tensor]) -> None:
    network, _, inputs = made
    settings = Deploy(precision="int8", types="U8S4", target=TARGET)
    costs = layer_costs(Static(plain(network, settings), settings, [(inputs,)]), "mse", "U8S4")
    assert len(costs) == 3
    assert costs[0].weight == "2.weight"
    assert costs[0].error > 10 * costs[1].error


def test_more_bits_repair_a_layer_that_few_break(made: tuple[Network, Job, Tensor]) -> None:
    network, job, inputs = made
    step = QuantizeWithin(max_drop=0.25, bits=4, types="U8S4", target=TARGET, method="nearest")
    repaired = step.apply(network, job)
    assert "8 bits for 2.weight" in repaired.notes[-1]
    assert "float for" not in repaired.notes[-1]
    before, after = (
        measure(run, job.data.validation, job.metric, original=network.outputs)
        for run in (network.outputs, file_network(deploy(repaired).to_bytes()).outputs)
    )
    assert before.drop_to(after).bound <= 0.25
    assert verify(deploy(repaired), repaired, [(inputs[:64],)]).holds


def test_an_outlier_channel_keeps_its_layer_in_float(outlier: tuple[Network, Job, Tensor]) -> None:
    network, job, inputs = outlier
    broken = deploy(network, Deploy(precision="int8", target=TARGET, types="U8S8"), [(inputs,)])
    original = measure(network.outputs, job.data.validation, job.metric, original=network.outputs)
    lost = measure(file_network(broken.to_bytes()).outputs, job.data.validation, job.metric, original=network.outputs)
    assert original.drop_to(lost).value > 0.3
    repaired = QuantizeWithin(max_drop=0.05, types="U8S8", target=TARGET).apply(network, job)
    assert repaired.notes[-1] == "repaired, the costliest layers first: float for 2.weight"
    file = deploy(repaired)
    assert [node.op_type for node in file.model.graph.node].count("QuantizeLinear") >= 2
    kept = measure(file_network(file.to_bytes()).outputs, job.data.validation, job.metric, original=network.outputs)
    assert original.drop_to(kept).bound <= 0.05


def test_the_job_repairs_what_plain_integers_break(outlier: tuple[Network, Job, Tensor], tmp_path: Path) -> None:
    network, job, _ = outlier
    limits = Limits(max_drop=0.06)
    trials, found = Trials(network, job, "onnx", timed=False, workspace=Workspace(tmp_path)), {}
    for search in first_candidates("latency", limits):
        while (candidate := search.ask()) is not None:
            found[candidate.name] = trials.run(candidate)
            search.tell(turn_further=turn_further(found[candidate.name], limits, "onnx"))
    assert found["int8 static"].drop > 0.3
    assert found["int8 repaired"].drop <= 0.06
    assert any("float for 2.weight" in note for note in found["int8 repaired"].notes)


def test_repairs_count_what_was_lost_before(outlier: tuple[Network, Job, Tensor]) -> None:
    network, job, _ = outlier
    step = QuantizeWithin(max_drop=0.2, types="U8S8", target=TARGET, samples=64)
    changed = edits.copy(network)
    with torch.no_grad():
        changed.module[4].weight[:2] *= 1.3  # it loses a little by itself, and integers break it as they break the original
    assert "float for 2.weight" in step.apply(changed, job).notes[-1]
    with torch.no_grad():
        changed.module[4].weight.neg_()  # nothing that is repaired would bring it back
    assert "before anything is in integers" in step.apply(changed, job).notes[-1]


def test_what_loses_little_is_not_repaired(made: tuple[Network, Job, Tensor]) -> None:
    network, job, _ = made
    quantized = QuantizeWithin(max_drop=0.5, types="U8S8", target=TARGET, method="nearest").apply(network, job)
    assert not any(note.startswith("repaired") for note in quantized.notes)
    assert all(edits.edit_of(quantized.module, name).grid.highest == 127 for name in edits.selected(quantized.module))


def test_a_limit_that_nothing_reaches_is_said(made: tuple[Network, Job, Tensor]) -> None:
    network, job, _ = made
    job = dataclasses.replace(job, metric=cosine_agreement)
    step = QuantizeWithin(max_drop=1e-9, bits=2, types="U4S4", target=TARGET, method="nearest", samples=32)
    assert "whatever is repaired" in step.apply(network, job).notes[-1]


def test_a_recipe_hands_over_the_file(made: tuple[Network, Job, Tensor]) -> None:
    network, _, inputs = made
    step = QuantizeWithin(max_drop=0.2, target=TARGET, types="U8S8", method="nearest")
    result = lissom.compress(network, inputs.numpy(), recipe=[step], task="classify")
    assert result.record.metric.drop <= 0.2
    assert open_file(result.files["model.onnx"])(inputs[:3].numpy())[0].shape == (3, 5)


def test_within_a_latency_the_costliest_layers_stay_float(made: tuple[Network, Job, Tensor]) -> None:
    network, job, _ = made
    few, many = (
        QuantizeWithin(max_latency=limit, target=TARGET, types="U8S8", method="nearest").apply(network, job)
        for limit in (1e-9, 1.0)
    )
    assert "QuantizeLinear" not in [node.op_type for node in deploy(many).model.graph.node]
    assert "may take 1e-09 s" in few.notes[-1]  # of layers so small, those that are faster in float stay float, too


def test_one_limit_is_given() -> None:
    for limits in ({}, {"max_drop": 0.1, "max_latency": 0.1}):
        with pytest.raises(UsageError, match="give one of"):
            QuantizeWithin(**limits)
