"""Every door × every goal × labelled or not: the same options, the same files, the same report."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from typer.testing import CliRunner

import lissom
from lissom.cli.app import app

FEATURES = 12
needs_keras = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras: pip install 'lissom[keras]'")
DOORS = ["callable", ".pt2", ".onnx", pytest.param(".keras", marks=needs_keras)]


def samples(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points about one centre for each of four classes."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, count)
    points = 1.5 * np.eye(4, FEATURES)[labels] * 3 + random.normal(size=(count, FEATURES))
    return points.astype(np.float32), labels.astype(np.int64)


def build() -> nn.Module:
    """A small classifier with room to prune; what ``module:callable`` names."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 4))
    points, labels = samples(240)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(points)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module


def as_onnx(module: nn.Module) -> onnx.ModelProto:
    """The same network as another tool may have written it."""
    nodes = [
        helper.make_node("Gemm", ["features", "0.weight", "0.bias"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "2.weight", "2.bias"], ["scores"], transB=1),
    ]
    tensors = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in module.state_dict().items()]
    ends = [helper.make_tensor_value_info(*each) for each in (("features", 1, ["n", FEATURES]), ("scores", 1, ["n", 4]))]
    graph = helper.make_graph(nodes, "theirs", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def save_as_keras(module: nn.Module, file: Path) -> None:
    """The same network as Keras would have it: kernels are the other way round."""
    from lissom.networks.keras import import_keras

    keras = import_keras()
    layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(4)]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    for layer, place in zip(layers, (module[0], module[2]), strict=True):
        layer.set_weights([place.weight.detach().numpy().T, place.bias.detach().numpy()])
    model.save(file)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One network behind each door."""
    folder = tmp_path_factory.mktemp("doors")
    module = build().eval()
    x = torch.zeros(2, FEATURES)
    batch = {0: torch.export.Dim("batch", min=1, max=512)}
    torch.export.save(torch.export.export(module, (x,), dynamic_shapes=(batch,)), folder / "net.pt2")
    onnx.save(as_onnx(module), folder / "net.onnx")
    if importlib.util.find_spec("keras") is not None:
        save_as_keras(module, folder / "net.keras")
    source = Path(__file__).read_text(encoding="utf-8")
    (folder / "doors_network.py").write_text(source.partition("def as_onnx")[0], encoding="utf-8")
    return {"callable": "doors_network:build", **{door: str(folder / f"net{door}") for door in (".pt2", ".onnx", ".keras")}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same samples with and without labels."""
    folder = tmp_path_factory.mktemp("data")
    x, y = samples(240)
    np.savez(folder / "labelled.npz", x=x, y=y)
    np.savez(folder / "unlabelled.npz", x=x)
    return {"labelled": str(folder / "labelled.npz"), "unlabelled": str(folder / "unlabelled.npz")}


RECIPES = {
    "size": "steps:\n- QuantizeWeights: {bits: 6}\n",
    "latency": "steps: []\ndeploy: {precision: int8, types: U8S8, ranges: minmax}\n",
}


@pytest.mark.parametrize("labels", ["labelled", "unlabelled"])
@pytest.mark.parametrize("goal", RECIPES)
@pytest.mark.parametrize("door", DOORS)
def test_compress_takes_every_door(
    door: str,
    goal: str,
    labels: str,
    models: dict[str, str],
    data: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(models[".onnx"]).parent)
    (tmp_path / "recipe.yaml").write_text(RECIPES[goal])
    result = lissom.compress(
        models[door], data[labels], goal=goal, task="classify", recipe=tmp_path / "recipe.yaml", out=tmp_path / "out"
    )
    record = result.record
    assert record.metric.name == ("accuracy" if labels == "labelled" else "agreement")
    assert record.metric.drop < 0.1
    assert record.ship == ("archive" if goal == "size" else "onnx")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"model.onnx", "model.lissom", "model.safetensors", "recipe.yaml", "result.json", "report.html"}
    assert ("model.keras" in files) == (door == ".keras")
    written = onnx.load(tmp_path / "out" / "model.onnx")
    kinds = [node.op_type for node in written.graph.node]
    assert {tensor.data_type for tensor in written.graph.initializer} & {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert ("QuantizeLinear" in kinds) == (goal == "latency")
    if door == ".onnx":
        original = onnx.load(models[door])
        assert written.graph.input == original.graph.input
        assert written.graph.output == original.graph.output
        assert written.opset_import == original.opset_import


@pytest.mark.parametrize("door", DOORS)
def test_inspect_evaluate_and_bench_take_every_door(
    door: str, models: dict[str, str], data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(models[".onnx"]).parent)
    run = CliRunner().invoke
    shape = ["--input", str(FEATURES)] if door == "callable" else []
    found = json.loads(run(app, ["inspect", models[door], *shape, "--json"], catch_exceptions=False).stdout)
    assert found["parameters"] == 12 * 32 + 32 + 32 * 4 + 4
    assert found["macs"] == 12 * 32 + 32 * 4
    assert [group["size"] for group in found["groups"]] == [32]
    measured = json.loads(
        run(app, ["evaluate", models[door], "--data", data["labelled"], "--json"], catch_exceptions=False).stdout
    )
    assert measured["metric"] == "accuracy"
    assert measured["value"] > 0.8
    timed = json.loads(
        run(app, ["bench", models[".onnx"], models[door], *shape, "--calls", "5", "--json"], catch_exceptions=False).stdout
    )
    assert timed[0]["ratio"] == 1.0
    assert timed[-1]["runtime"] == ("onnxruntime" if door == ".onnx" else "torch")
