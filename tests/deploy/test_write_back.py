"""An edited ONNX network returns to its file: what was not edited stays, what was has parity in ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy.write_back import write_back
from lissom.errors import UsageError
from lissom.job import Job
from lissom.network import Network
from lissom.networks.onnx import read_onnx
from lissom.prune.channels import PruneChannels
from lissom.quantize.weights import QuantizeWeights
from lissom.share.weights import ShareWeights

sys.path.insert(0, str(Path(__file__).parents[1] / "networks" / "onnx"))
from models import attention, convolutional, run


def no_data(network: Network) -> Job:
    """A job for steps that look at weights only."""

    def loss(*_: object) -> torch.Tensor:
        raise AssertionError("these steps need no data")

    return Job(data=Data.of(Arrays((np.zeros((8, 1), np.float32),), None)), loss=loss, metric=None, teacher=network)  # type: ignore[arg-type]


STEPS = {
    "quantize": QuantizeWeights(bits=8),
    "quantize to 4 bits": QuantizeWeights(bits=4, granularity="tensor"),
    "share": ShareWeights(bits=3),
    "prune": PruneChannels(ratio=0.4, importance="l1", scope="group", reconstruct=False),
}


@pytest.mark.parametrize("make", [convolutional, attention])
@pytest.mark.parametrize("step", STEPS)
def test_the_edited_file_has_parity_and_keeps_its_surroundings(make: object, step: str) -> None:
    original = make()  # type: ignore[operator]
    original.metadata_props.add(key="author", value="someone")
    network = read_onnx(original)
    edited = STEPS[step].apply(network, no_data(network))
    written = write_back(edited).model
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(written))
    x = network.example_inputs[0]
    np.testing.assert_allclose(run(written, x=x.numpy())[0], edited.outputs(x)[0].numpy(), rtol=1e-4, atol=1e-5)
    assert written.graph.input == original.graph.input
    assert written.graph.output == original.graph.output
    assert written.opset_import == original.opset_import
    assert written.metadata_props == original.metadata_props
    assert [node.name for node in written.graph.node if node in original.graph.node]
    assert written.SerializeToString() != original.SerializeToString()


def test_pruning_makes_the_file_smaller() -> None:
    network = read_onnx(convolutional())
    edited = STEPS["prune"].apply(network, no_data(network))
    assert write_back(edited).model.ByteSize() < 0.8 * network.source.original.ByteSize()


def test_nothing_edited_changes_nothing() -> None:
    network = read_onnx(convolutional())
    assert write_back(network).model.SerializeToString() == network.source.original.SerializeToString()


def test_only_the_edited_initialiser_differs() -> None:
    network = edits.copy(read_onnx(convolutional()))
    edits.attach(network.module, "fc.weight", mask=torch.arange(80).reshape(5, 16) % 2 == 0)
    written, original = write_back(network).model, network.source.original
    differing = [a.name for a, b in zip(written.graph.initializer, original.graph.initializer, strict=True) if a != b]
    assert differing == ["fc.weight"]
    assert written.graph.node == original.graph.node


def test_a_network_from_elsewhere_is_refused() -> None:
    with pytest.raises(UsageError, match="this one is a module"):
        write_back(Network(nn.Linear(3, 2), (torch.zeros(2, 3),)))
