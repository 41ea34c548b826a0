"""Runtimes: one way to open and call, and clear errors for what does not run."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom.deploy import deploy
from lissom.errors import DeployFailed, MissingExtra, UsageError
from lissom.network import Network
from lissom.runtimes import RUNTIMES, available, open_file


@pytest.fixture
def made() -> Network:
    return Network(nn.Linear(3, 2), (torch.zeros(2, 3),), input_names=("x",))


def test_every_installed_runtime_answers_alike(made: Network) -> None:
    data = deploy(made).to_bytes()
    inputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    expected = made.outputs(torch.from_numpy(inputs))[0].numpy()
    assert "onnxruntime" in available()
    for name in available():
        session = open_file(made if name == "torch" else data, name)
        assert session.input_names == ("x",)
        np.testing.assert_allclose(session(inputs)[0], expected, atol=1e-5)


def test_what_does_not_run_is_one_clear_error(made: Network, tmp_path: object) -> None:
    with pytest.raises(UsageError, match="no runtime is called 'abacus'"):
        open_file(b"", "abacus")
    with pytest.raises(DeployFailed, match="cannot open"):
        open_file(b"this is no model")
    with pytest.raises(DeployFailed, match="cannot open"):
        open_file(f"{tmp_path}/missing.onnx")
    with pytest.raises(DeployFailed, match="does not run on"):
        open_file(deploy(made).to_bytes())(np.zeros((2, 7), np.float32))
    with pytest.raises(UsageError, match="torch runs a network or a module"):
        open_file("model.onnx", "torch")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is not None, reason="openvino is installed")
def test_a_missing_runtime_says_how_to_install_it() -> None:
    assert RUNTIMES["openvino"].extra == "openvino"
    with pytest.raises(MissingExtra, match="pip install"):
        open_file(b"", "openvino")


@pytest.mark.parametrize("batch", [1, 4])
def test_a_file_that_fixes_its_batch_is_given_its_samples_in_pieces(made: Network, batch: int) -> None:
    model = deploy(made).model
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    inputs = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    expected = made.outputs(torch.from_numpy(inputs))[0].numpy()
    for name in set(available()) - {"torch"}:
        np.testing.assert_allclose(open_file(model.SerializeToString(), name)(inputs)[0], expected, atol=1e-5)


def test_openvino_proves_scores_and_times_what_is_made_for_it() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    torch.manual_seed(0)
    network = Network(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, 4)),
        (torch.zeros(2, 3, 12, 12),),
    )
    x = np.random.default_rng(0).normal(size=(60, 3, 12, 12)).astype(np.float32)
    recipe = lissom.Recipe(deploy=lissom.Deploy(target="openvino", precision="int8", ranges="minmax"))
    record = lissom.compress(network, x, recipe=recipe, task="classify").record
    assert [entry.runtime for entry in record.latency] == ["openvino"]
    assert [(entry.runtime, entry.kind) for entry in record.parity] == [("openvino", "integer")]


def test_what_openvino_does_not_run_is_one_clear_error(made: Network) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with pytest.raises(DeployFailed, match="OpenVINO cannot open the file"):
        open_file(b"this is no model", "openvino")
    with pytest.raises(DeployFailed, match=r"OpenVINO does not run the file on \[2, 7\]: it takes"):
        open_file(deploy(made).to_bytes(), "openvino")(np.zeros((2, 7), np.float32))
