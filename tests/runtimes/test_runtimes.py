"""Runtimes: one way to open and call, and clear errors for what does not run."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

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
