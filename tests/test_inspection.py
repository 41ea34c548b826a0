"""inspect: what a network holds, what can go together, and what cannot go and why, as text and as JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lissom.cli import app
from lissom.deploy import deploy
from lissom.inspection import inspect
from lissom.network import Network
from lissom.networks.onnx import read_onnx


def network() -> Network:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    return Network(module, (torch.randn(2, 1, 4, 4),))


def test_layers_costs_groups_and_reasons():
    found = inspect(network())
    assert (found.parameters, found.macs) == (4 * 9 + 4 + 8 + 48 + 3, 4 * 4 * 9 + 48)
    assert [layer.name for layer in found.layers][:2] == ["0.weight", "0.bias"]
    (group,) = found.groups
    assert (group["name"], group["size"]) == ("0.weight[0]", 4)
    assert "4.weight[1]" in group["members"]
    assert group["ties"]
    reasons = {fixed["tensor"]: fixed["why"] for fixed in found.fixed}
    assert "output of the network" in reasons["4.weight[0]"]
    assert "kernel" in reasons["0.weight[2]"]
    assert found.unknown == ()
    assert 0.9 < found.prunable < 1


def test_a_file_has_the_same_work_in_the_same_layers(tmp_path):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    made = Network(module, (torch.randn(2, 1, 4, 4),))
    deploy(made).save(tmp_path / "model.onnx")
    read = inspect(read_onnx(tmp_path / "model.onnx"))
    assert {layer.name: layer.macs for layer in read.layers} == {layer.name: layer.macs for layer in inspect(made).layers}
    assert [layer.macs for layer in read.layers if layer.macs is not None] == [4 * 4 * 9, 48]


def test_what_cannot_be_captured_is_still_listed_and_said():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else -super().forward(x)

    found = inspect(Network(Branching(3, 2), (torch.randn(2, 3),)))
    assert (found.macs, found.groups, found.parameters) == (None, (), 8)
    assert any("control flow that depends on data" in note for note in found.notes)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_them(as_json):
    result = CliRunner().invoke(app, ["inspect", "examples.lenet:lenet5", "--input", "1x28x28", *["--json"] * as_json])
    assert result.exit_code == 0, result.output
    if as_json:
        found = json.loads(result.stdout)
        assert found["macs"] > 0
        assert {"name", "size", "members", "ties"} <= found["groups"][0].keys()
    else:
        for word in ("431,080 parameters", "MACs", "Channels that can go", "stays whole"):
            assert word in result.output


def test_where_quantization_would_cost_accuracy():
    found = inspect(network(), [(torch.randn(16, 1, 4, 4),)])
    assert {(entry.name, entry.bits) for entry in found.quantization} == {
        (name, bits) for name in ("0.weight", "4.weight") for bits in (8, 4)
    }
    errors = [max(entry.output_error for entry in found.quantization if entry.name == name) for name in ("0.weight", "4.weight")]
    worst = ("0.weight", "4.weight")[errors.index(max(errors))]
    assert [entry.name for entry in found.quantization[:2]] == [worst, worst]
    assert found.to_dict()["quantization"][0]["bits"] == 8
