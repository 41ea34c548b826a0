"""What a run survives: interrupts, a full disk, a clock that jumps, a second run into its folder, what a kill leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom.errors import LissomError, OutputOccupied
from lissom.files import exclusive
from lissom.job import Silent

SHIPPED = ("model.onnx", "model.lissom", "model.safetensors", "recipe.yaml")
RECIPE = lissom.Recipe((
    lissom.Finetune(epochs=2, during=lissom.PruneWeights(schedule=lissom.PolynomialDecay(final=0.8))),
    lissom.ShareWeights(bits=3),
    lissom.Finetune(epochs=1),
))  # fmt: skip


def network() -> lissom.Network:
    torch.manual_seed(0)
    return lissom.Network(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)), (torch.zeros(2, 12),))


def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    return (random.normal(size=(4, 12))[labels] + random.normal(size=(200, 12))).astype(np.float32), labels


def run(out: Path, **options) -> lissom.Result:
    return lissom.compress(network(), data(), out=out, recipe=RECIPE, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(out)
    return out


def assert_same(out: Path, expected: Path) -> None:
    assert {path.name for path in out.iterdir()} == {path.name for path in expected.iterdir()}
    assert sorted(path.name for path in (out / ".lissom-job").iterdir()) == ["job.json", "lock"]
    for name in SHIPPED:
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


class Interrupting(Silent):
    """Progress at which an interrupt arrives while the network trains; the command's test sends a real signal."""

    @contextmanager
    def task(self, description, total):
        if description == "training":
            raise KeyboardInterrupt
        yield self


def test_an_interrupted_run_resumes_to_the_same_files(tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", progress=Interrupting())
    assert not (tmp_path / "out" / "result.json").exists()
    run(tmp_path / "out")
    assert_same(tmp_path / "out", undisturbed)


def test_the_command_says_that_it_can_be_resumed_and_ends_with_130(tmp_path):
    (tmp_path / "net.py").write_text(
        "import lissom, torch\nfrom torch import nn\n"
        "def build():\n    return lissom.Network(nn.Linear(12, 4), (torch.zeros(2, 12),))\n"
    )
    x, y = (np.repeat(part, 50, axis=0) for part in data())  # enough that the run goes on when the signal comes
    np.savez(tmp_path / "data.npz", x=x, y=y)
    # A shell that runs the tests in the background has its children ignore the signal.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from lissom.cli import main; main()"
    command = [sys.executable, "-c", start, "compress", "net:build", "--data", "data.npz"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "--out", "out"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()  # the first candidate is done
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert process.returncode == 130, first + told
    assert "interrupted; the same command resumes where it stopped" in told
    assert (tmp_path / "out" / ".lissom-job" / "trials" / "8-bit-weights" / "trial.json").is_file()
    assert not (tmp_path / "out" / "result.json").exists()


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "lissom-test", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("size", ["4k", "48k"])
def test_a_full_disk_is_one_sentence_and_the_run_resumes_once_there_is_room(size, tmp_path, undisturbed):
    disk = tmp_path / "disk"
    with small_disk(disk, size):
        with pytest.raises(LissomError, match="no disk space left to write"):
            run(disk / "out")
        assert not (disk / "out" / "result.json").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        run(disk / "out")
        assert_same(disk / "out", undisturbed)


def test_a_clock_that_is_set_back_changes_nothing(tmp_path, undisturbed, monkeypatch):
    began = time.time()
    turns = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: began - 3600 * next(turns))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * time.time()))
    result = run(tmp_path / "out", max_time=600)
    assert result.record.seconds > 0
    assert_same(tmp_path / "out", undisturbed)


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_works(tmp_path):
    with (
        exclusive(tmp_path / "out" / ".lissom-job" / "lock"),
        pytest.raises(OutputOccupied, match=r"another lissom run is writing to .*out: wait for it, or choose another --out"),
    ):
        run(tmp_path / "out")


def test_files_that_lissom_did_not_write_are_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.onnx").write_bytes(b"another's")
    with pytest.raises(OutputOccupied, match="files that lissom did not write"):
        run(tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == b"another's"


def test_what_a_killed_process_left_behind_is_swept_away(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "out")
    (tmp_path / "out" / "result.json").unlink()
    (tmp_path / "out" / ".model.onnx.ab12_x9z.tmp").write_bytes(b"half")
    (tmp_path / "out" / ".lissom-job" / ".job.json.ab12_x9z.tmp").write_bytes(b"half")
    run(tmp_path / "out")
    assert_same(tmp_path / "out", undisturbed)


def test_a_finished_run_is_given_back_and_runs_again_when_forced(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "out")
    before = (tmp_path / "out" / "result.json").stat().st_mtime_ns
    (tmp_path / "out" / ".lissom-job" / "trials" / "left").mkdir(parents=True)
    run(tmp_path / "out")
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns == before
    assert_same(tmp_path / "out", undisturbed)
    run(tmp_path / "out", force=True)
    assert (tmp_path / "out" / "result.json").stat().st_mtime_ns > before
    assert_same(tmp_path / "out", undisturbed)
