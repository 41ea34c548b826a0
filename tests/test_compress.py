"""compress(): from a network and a limit to files that keep their promises; what it finds, refuses and says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import lissom
from lissom import edits
from lissom.compress import plan, raise_if_short
from lissom.errors import DataRefused, DeployFailed, LimitNotMet, ModelRefused, UsageError
from lissom.job import OutOfTime, Silent

from .conftest import blobs, fit

ROOT = Path(__file__).parents[1]
FILES = {"model.onnx", "model.lissom", "model.safetensors", "recipe.yaml", "result.json", "report.html"}
QUICK = [lissom.QuantizeWeights(bits=8)]


def trained(width: int = 48) -> nn.Module:
    """Two linear layers that tell the blobs apart."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 4))
    points, labels = blobs(600)
    fit(module, points, labels, learning_rate=1e-2, steps=60)
    return module


class Told(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return trained()


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return blobs(600)


@pytest.fixture(scope="module")
def searched(module, data, tmp_path_factory):
    """One search as the README writes it, into a folder."""
    out = tmp_path_factory.mktemp("searched") / "out"
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lissom.search.policy.ROUNDS", 2)
        result = lissom.compress(module, data, max_drop=0.05, goal="size", out=out)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    return SimpleNamespace(result=result, record=result.record, out=out)


def run_onnx(file: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def test_every_file_is_there_and_nothing_is_left_of_the_work(searched):
    assert {path.name for path in searched.out.iterdir()} == {*FILES, ".lissom-job"}
    assert {path.name for path in (searched.out / ".lissom-job").iterdir()} == {"job.json", "lock"}
    assert set(searched.result.files) == FILES


def test_the_record_follows_the_published_schema(searched):
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    jsonschema.validate(json.loads((searched.out / "result.json").read_text()), schema)


def test_figures_are_those_of_the_files(searched, data):
    record = searched.record
    assert record.bytes.onnx == (searched.out / "model.onnx").stat().st_size
    assert record.bytes.archive == (searched.out / "model.lissom").stat().st_size == record.shipped_bytes
    assert record.bytes.source == sum(4 * tensor.numel() for tensor in trained().state_dict().values())
    assert record.ratio == record.bytes.source / record.bytes.weights_only
    splits = lissom.load_data(data, searched.result.network)
    (inputs,), labels = splits.test.first(len(splits.test))
    right = run_onnx(searched.out / "model.onnx", inputs.numpy()).argmax(1) == labels.numpy()
    assert (record.metric.split, record.metric.n) == ("test", len(splits.test))
    assert record.metric.after == pytest.approx(right.mean())
    assert record.metric.drop == pytest.approx(record.metric.before - record.metric.after)


def test_every_trial_is_recorded_and_the_one_kept_is_within_its_limits(searched):
    trials = searched.record.trials
    assert [trial.name for trial in trials[:3]] == ["8-bit weights", "6-bit codebooks", "strength 0.500"]
    assert len(trials) == 4
    kept = searched.record.chosen
    assert kept is not None
    assert kept.refused_because == ""
    assert all(trial.bytes >= kept.bytes for trial in trials if not trial.refused_because and trial.drop is not None) or (
        "undecided" in repr(searched.record.metric)
    )
    assert all("% allowed" in trial.refused_because for trial in trials if "lost" in trial.refused_because)


def test_the_archive_unpacks_to_the_very_bytes_of_the_model(searched, tmp_path):
    lissom.unpack(searched.out / "model.lissom", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (searched.out / "model.onnx").read_bytes()


def test_following_the_written_recipe_gives_the_same_files(searched, module, data, tmp_path):
    again = lissom.compress(module, data, recipe=searched.out / "recipe.yaml", out=tmp_path / "again")
    for name in ("model.onnx", "model.lissom", "model.safetensors", "recipe.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (searched.out / name).read_bytes(), name
    assert [trial.name for trial in again.record.trials] == ["recipe"]


def test_the_same_call_gives_back_the_finished_result(searched, module, data):
    progress = Told()
    again = lissom.compress(module, data, max_drop=0.05, goal="size", out=searched.out, progress=progress)
    assert progress.lines == [f"{searched.out} holds the finished result of this very job"]
    assert again.record == searched.record


def test_another_number_of_threads_is_the_same_job(searched, module, data):
    progress, before = Told(), torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        lissom.compress(module, data, max_drop=0.05, goal="size", out=searched.out, progress=progress)
    finally:
        torch.set_num_threads(before)
    assert progress.lines == [f"{searched.out} holds the finished result of this very job"]


@pytest.mark.parametrize("change", ["limit", "goal", "seed", "label", "weight"])
def test_other_options_or_inputs_are_another_job(searched, module, data, change):
    points, labels = data[0], data[1].copy()
    options = {"max_drop": 0.05, "goal": "size", "out": searched.out}
    options |= {"limit": {"max_drop": 0.04}, "goal": {"ship": "onnx"}, "seed": {"seed": 1}}.get(change, {})
    if change == "label":
        labels[599] = (labels[599] + 1) % 4
    other = trained(47) if change == "weight" else module
    with pytest.raises(UsageError, match="the work of a run with other inputs or options"):
        lissom.compress(other, (points, labels), **options)


def test_the_compressed_network_trains_on_and_keeps_its_zeros(searched, module):
    loaded = lissom.load(searched.out, build=trained)
    assert torch.equal(loaded.outputs(torch.ones(2, 12))[0], searched.result.network.outputs(torch.ones(2, 12))[0])
    zeros = {name: edits.value(loaded.module, name) == 0 for name, _ in edits.weights(loaded.module)}
    optimizer = torch.optim.SGD(loaded.module.parameters(), lr=0.1)
    loaded.module(torch.ones(4, 12)).square().sum().backward()
    optimizer.step()
    for name, parameter in zeros.items():
        if parameter.ndim > 1:
            assert bool((edits.value(loaded.module, name)[parameter] == 0).all())


def test_a_recipe_of_steps_as_the_readme_writes_it_and_saved_later(module, data, tmp_path):
    steps = [
        lissom.PruneWeights(sparsity=0.8),
        lissom.Finetune(epochs=2),
        lissom.ShareWeights(bits=3),
    ]
    result = lissom.compress(module, data, recipe=steps)
    saved = result.save(tmp_path / "small")
    assert {path.name for path in (tmp_path / "small").iterdir()} == FILES
    assert lissom.Result.load(tmp_path / "small").record == saved.record
    assert result.record.limits == ()
    weight = edits.value(result.network.module, "0.weight")
    assert float((weight == 0).float().mean()) > 0.795
    assert weight.unique().numel() <= 9
    assert result.record.bytes.weights_only < result.record.bytes.source / 8


def test_without_labels_the_metric_is_agreement_and_the_outputs_teach(module, data):
    steps = [lissom.PruneWeights(sparsity=0.5), lissom.Finetune(epochs=3)]
    result = lissom.compress(module, {"x": data[0]}, task="classify", max_drop=0.2, recipe=steps)
    assert (result.record.metric.name, result.record.metric.before) == ("agreement", 1.0)
    assert result.record.metric.after > 0.8
    assert result.record.limits[0].met


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"max_size": 10}, r"max_size is .*B over the limit of 10 B"),
        ({"max_latency": 1e-9}, r"max_latency is .*µs over the limit of"),
        ({"max_drop": 0.001}, r"max_drop is [\d.]+ points, [\d.]+ points over the limit of 0\.10 points \(accuracy on 120 test"),
    ],
)
def test_a_limit_that_is_not_met_gives_the_closest_result_and_says_by_how_much(module, data, limits, told):
    steps = [lissom.PruneWeights(sparsity=0.97)] if "max_drop" in limits else QUICK
    result = lissom.compress(module, data, recipe=steps, **limits)
    assert [limit.met for limit in result.record.limits] == [False]
    assert set(result.files) == FILES
    with pytest.raises(LimitNotMet, match=told) as caught:
        raise_if_short(result)
    assert caught.value.exit_code == 3
    assert "The closest result was written" in str(caught.value)


def test_a_run_whose_bytes_did_not_fall_says_so(module, data):
    result = lissom.compress(module, data, recipe=[], ship="onnx")
    with pytest.raises(LimitNotMet, match=r"the file is not smaller: [\d,]+ bytes, and 3,280 came in") as caught:
        raise_if_short(result)
    assert caught.value.exit_code == 3


def test_the_users_own_metric_loss_and_training_decide(module, data):
    seen = []

    def mean_rank(outputs, targets):
        seen.append("metric")
        return (outputs.argsort(1, descending=True) == targets[:, None]).float().argmax(1).float().neg().mean()

    def margin(outputs, targets):
        seen.append("loss")
        return nn.functional.multi_margin_loss(outputs[0], targets)

    def my_training(network, job):
        seen.append(f"training on {len(job.data.train)}")

    steps = [lissom.Finetune(epochs=1), lissom.QuantizeWeights(bits=8)]
    result = lissom.compress(module, data, recipe=steps, metric=mean_rank, loss=margin)
    assert {"metric", "loss"} <= set(seen)
    assert result.record.metric.name == "mean_rank"
    assert result.record.metric.standard_error is None
    result = lissom.compress(module, data, recipe=steps, train=my_training)
    assert "training on 360" in seen
    assert torch.equal(result.network.module[0].bias, module[0].bias)


def test_targets_of_the_users_own_kind_are_the_users_business(module, data):
    boxes = np.random.default_rng(0).normal(size=(600, 2, 7)).astype(np.float32)

    def metric(outputs, targets):
        return -(outputs.mean(1) - targets.mean((1, 2))).abs().mean()

    def loss(outputs, targets):
        return (outputs[0].mean(1) - targets.mean((1, 2))).square().mean()

    result = lissom.compress(module, (data[0], boxes), recipe=[lissom.Finetune(epochs=1)], metric=metric, loss=loss)
    assert result.record.metric.name == "metric"
    with pytest.raises(DataRefused, match="targets of shape"):
        lissom.compress(module, (data[0], boxes), recipe=QUICK)


def test_latency_is_a_goal_too(module, data, monkeypatch):
    monkeypatch.setattr("lissom.search.policy.ROUNDS", 1)
    result = lissom.compress(trained(64), data, goal="latency", max_drop=0.1)
    record = result.record
    assert [trial.name for trial in record.trials] == ["float", "int8 static", "strength 0.500"]
    assert (record.goal, record.ship, record.shipped_bytes) == ("latency", "onnx", record.bytes.onnx)
    assert all(trial.latency_ms is not None for trial in record.trials if not trial.refused_because)
    assert record.latency[0].ratio == pytest.approx(record.latency[0].before_ms.p10 / record.latency[0].after_ms.p10)


class Clock(Told):
    """Time stands still, and jumps an hour whenever something is said."""

    now = 0.0
    tick = 0.0

    def say(self, message: str) -> None:
        super().say(message)
        self.now += 3600.0

    def monotonic(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    for room in ("compress", "job", "search.trial", "evidence"):
        monkeypatch.setattr(importlib.import_module(f"lissom.{room}"), "time", made)
    return made


def test_when_time_is_up_the_best_so_far_is_the_result(module, data, clock):
    result = lissom.compress(module, data, max_drop=0.05, max_time=5400, progress=clock)
    assert [trial.name for trial in result.record.trials] == ["8-bit weights", "6-bit codebooks"]
    assert any("time limit came before the search was done" in note for note in result.record.notes)
    assert [limit.name for limit in result.record.limits] == ["max_drop", "max_time"]
    assert result.record.limits[1].met


def test_no_time_for_even_one_candidate_is_said(module, data, clock):
    clock.tick = 1.0
    with pytest.raises(OutOfTime, match="--max-time") as caught:
        lissom.compress(module, data, recipe=[lissom.Finetune(epochs=1)], max_time=0)
    assert caught.value.exit_code == 3


def test_a_network_that_cannot_be_exported_is_refused_with_the_reason(data):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if float(x.sum()) > 0 else self.layer(x) * 2

    with pytest.raises(DeployFailed, match=r"no candidate gave a file.*torch cannot export Odd") as caught:
        lissom.compress(Odd(), data, recipe=QUICK)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"goal": "speed"}, "goal is 'speed'; it must be one of size, latency"),
        ({"ship": "zip"}, "ship is 'zip'; it must be one of archive, onnx, weights"),
        ({"task": "detect"}, "task is 'detect'"),
        ({"max_drop": -1}, "max_drop is -1"),
        ({"recipe": "none.yaml"}, r"no recipe file none\.yaml"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"device": "cuda:77"}, "device is 'cuda:77'"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_any_work(module, data, options, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        lissom.compress(module, data, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_unknown_option_is_a_type_error(module, data):
    with pytest.raises(TypeError, match="max_loss"):
        lissom.compress(module, data, max_loss=1)


def test_a_plan_says_what_would_be_done_and_writes_nothing(module, data, tmp_path):
    told = plan(module, data, max_drop=0.01, out=tmp_path / "out")
    assert told["network"] == "Sequential, 820 parameters"
    assert told["data"] == "360 train, 360 calibration, 120 validation, 120 test"
    assert "8-bit weights" in told["tries"]
    assert "strength 0.500: Finetune(epochs=20" in told["tries"]
    assert not (tmp_path / "out").exists()


def test_a_network_in_bfloat16_is_refused_with_the_way_out(data):
    network = lissom.Network(trained().to(torch.bfloat16), (torch.zeros(2, 12, dtype=torch.bfloat16),))
    with pytest.raises(ModelRefused, match=r"takes bfloat16.*module\.float\(\)"):
        lissom.compress(network, data, recipe=QUICK)
