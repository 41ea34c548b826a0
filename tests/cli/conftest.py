"""A folder as a user has it: a network behind ``module:callable``, its weights, and data of every kind; and the command."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from lissom.cli.app import app

from ..conftest import fit

MODEL = """
import lissom, torch
from torch import nn

def build():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 4))
    return lissom.Network(module, (torch.zeros(2, 12),), input_names=("features",))

def images():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    return lissom.Network(module, (torch.zeros(2, 3, 8, 8),), input_names=("image",))

def plain():
    return nn.Linear(12, 4)

not_callable = 3
"""


def blobs(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, count)
    return (4 * np.eye(4, 12)[labels] + random.normal(size=(count, 12))).astype(np.float32), labels


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests write elsewhere."""
    made = tmp_path_factory.mktemp("user")
    (made / "cli_network.py").write_text(MODEL)
    x, y = blobs()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 4))
    fit(module, x, y, learning_rate=2e-2, steps=40)
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    save_file(state, made / "weights.safetensors")
    save_file({**state, "0.bias": torch.full((48,), float("nan"))}, made / "nan.safetensors")
    save_file({**state, "0.bias": torch.zeros(7)}, made / "shape.safetensors")
    save_file({name: state[name] for name in list(state)[:2]}, made / "missing.safetensors")
    (made / "truncated.safetensors").write_bytes((made / "weights.safetensors").read_bytes()[:500])
    (made / "pickle.pt").write_bytes(pickle.dumps({"run": print}))
    np.savez(made / "data.npz", x=x, y=y)
    np.savez(made / "unlabelled.npz", x=x)
    np.savez(made / "labels.npz", x=x, y=np.where(np.arange(len(y)) == 299, 9, y))
    np.savez(made / "nan.npz", x=np.where(np.arange(len(x))[:, None] == 200, np.nan, x).astype(np.float32), y=y)
    np.savez(made / "shape.npz", x=x[:, :5], y=y)
    np.savez(made / "empty.npz", x=x[:0], y=y[:0])
    np.savez(made / "names.npz", pixels=x, y=y)
    np.savez(made / "objects.npz", x=np.array([{"run": print}] * 9, object), y=y[:9])
    np.savez(made / "uint8.npz", x=np.zeros((40, 3, 8, 8), np.uint8), y=y[:40])
    np.save(made / "bare.npy", x)
    (made / "truncated.npz").write_bytes((made / "data.npz").read_bytes()[:1000])
    (made / "text.npz").write_text("no archive")
    (made / "eight.yaml").write_text("steps:\n- QuantizeWeights: {bits: 8}\n")
    return made


@pytest.fixture
def lissom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, run in that folder: ``lissom("inspect", "cli_network:build")``."""
    monkeypatch.chdir(folder)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])
