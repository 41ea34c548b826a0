"""Profile and memory: times belong to the layers whose weights the nodes read, in float and in integers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissom.deploy import Deploy, deploy
from lissom.measure.memory import peak_memory
from lissom.measure.profile import layer_seconds
from lissom.network import Network

LAYERS = {"0": ["0.weight", "0.bias"], "3": ["3.weight", "3.bias"], "6": ["6.weight", "6.bias"], "8": ["8.weight"]}


@pytest.fixture(params=["float32", "int8"])
def file(request, tmp_path: Path) -> Path:
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU6(), nn.Flatten(),
        nn.Linear(64 * 30 * 30, 8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    made = Network(module.eval(), (torch.randn(2, 3, 32, 32),))
    settings = Deploy(precision=request.param, target="onnxruntime-cpu", types="U8S8", ranges="minmax")
    deploy(made, settings, [(torch.randn(16, 3, 32, 32),)]).save(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_every_layer_has_its_time(file: Path) -> None:
    taken = layer_seconds(file, (np.zeros((1, 3, 32, 32), np.float32),), LAYERS)
    assert set(taken) == set(LAYERS)
    assert taken["3"] > 0


def test_what_is_looked_up_is_no_weight_of_what_follows(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Embedding(10, 16), nn.Linear(16, 16), nn.Flatten(), nn.Linear(64, 2))
    made = Network(module, (torch.zeros(2, 4, dtype=torch.long),))
    deploy(made).save(tmp_path / "model.onnx")
    layers = {name: [f"{name}.weight", f"{name}.bias"] for name in ("0", "1", "3")}
    assert set(layer_seconds(tmp_path / "model.onnx", (np.zeros((1, 4), np.int64),), layers)) == set(layers)


def test_a_layer_that_the_file_does_not_have_has_no_time(file: Path) -> None:
    taken = layer_seconds(file, (np.zeros((1, 3, 32, 32), np.float32),), {**LAYERS, "gone": ["gone.weight"]})
    assert "gone" not in taken


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    wide = Network(nn.Linear(2000, 2000), (torch.zeros(2, 2000),))
    deploy(wide).save(tmp_path / "wide.onnx")
    held = peak_memory(tmp_path / "wide.onnx", (np.zeros((1, 2000), np.float32),))
    if held is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert held > 16_000_000  # its weights alone
    assert held < 400_000_000
    assert peak_memory(tmp_path / "missing.onnx", ()) is None
