"""Latency: candidates in turns, figures that say when they cannot be trusted, and files of every kind side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissom.deploy import deploy
from lissom.errors import UsageError
from lissom.measure.latency import Percentiles, bench, compare, time_in_turns
from lissom.network import Network
from lissom.runtimes import available


def test_candidates_are_called_in_turns() -> None:
    called: list[str] = []
    figures = time_in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, calls=8, turn=2)
    warm = len(called) - (figures["a"].calls + figures["b"].calls)
    rest = "".join(called[warm % len(called) :])
    assert rest.endswith("aabb" * 3)
    assert figures["a"].calls == figures["b"].calls >= 8


def test_percentiles_are_of_all_calls() -> None:
    figure = Percentiles.of(np.arange(1.0, 101.0))
    assert (figure.p50, figure.calls) == (50.5, 100)
    assert figure.p10 == pytest.approx(10.9)
    assert not figure.stable  # the second half is far slower than the first


def test_a_figure_is_not_stable_while_other_work_has_the_cpu() -> None:
    seconds = np.full(100, 0.020)
    assert Percentiles.of(seconds, np.full(100, 0.0195)).stable
    assert not Percentiles.of(seconds, np.full(100, 0.005)).stable
    assert Percentiles.of(seconds, np.full(100, 0.040)).stable  # two threads compute


@pytest.fixture
def made() -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), (torch.zeros(2, 8),))


def test_files_bytes_and_networks_are_timed_side_by_side(made: Network, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    deploy(made).save(file)
    runtimes = [name for name in available() if name != "torch"]
    rows = bench({str(file): file, "archive": file.read_bytes(), "network": made}, runtimes=(*runtimes, "torch"), calls=20)
    pairs = [(row["file"], row["runtime"]) for row in rows]
    assert pairs == [*((name, runtime) for name in (str(file), "archive") for runtime in runtimes), ("network", "torch")]
    assert rows[0]["ratio"] == 1.0
    assert rows[0]["bytes"] == file.stat().st_size
    assert rows[-1]["bytes"] is None
    assert all(0 < row["p10_ms"] <= row["p50_ms"] for row in rows)


def test_a_comparison_says_what_it_was_made_with(made: Network) -> None:
    data = deploy(made).to_bytes()
    timing = compare(data, data, (np.zeros((1, 8), np.float32),), calls=40)
    assert (timing.runtime, timing.threads, timing.batch) == ("onnxruntime", 1, 1)
    assert timing.cpu
    assert timing.ratio == timing.before.p10 / timing.after.p10


def test_nothing_to_time_is_an_error(made: Network, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name at least one file"):
        bench({})
    deploy(made).save(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="no file runs in torch"):
        bench({"model": tmp_path / "model.onnx"}, runtimes=("torch",))
