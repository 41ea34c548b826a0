"""The commands: what they print, what they write, and that they print and write nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from lissom.cli.app import app

COMPRESS = ("compress", "cli_network:build", "--weights", "weights.safetensors", "--data", "data.npz")
COMMANDS = ("compress", "demo", "inspect", "doctor", "evaluate", "bench", "pack", "unpack")


@pytest.fixture(scope="module")
def small(folder: Path, tmp_path_factory) -> Path:
    """A finished compression."""
    out = tmp_path_factory.mktemp("finished") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = CliRunner().invoke(app, [*COMPRESS, "--recipe", "eight.yaml", "--max-drop", "50%", "--out", str(out)])
    assert run.exit_code == 0, run.output
    return out


def test_compress_says_what_it_won_and_where(small, lissom):
    run = lissom(*COMPRESS, "--recipe", "eight.yaml", "--max-drop", "50%", "--out", small)  # it is finished: given back
    assert run.exit_code == 0
    assert "holds the finished result of this very job" in run.stderr
    for word in ("size (archive)", "weights alone", "accuracy (60 test)", "latency (onnxruntime, 1 thread)", "report.html"):
        assert word in run.stdout


def test_json_is_one_document_and_equals_the_file(small, lissom):
    run = lissom(*COMPRESS, "--recipe", "eight.yaml", "--max-drop", "50%", "--out", small, "--json")
    assert run.exit_code == 0
    assert json.loads(run.stdout) == json.loads((small / "result.json").read_text())
    assert run.stderr == ""


def test_quiet_shows_no_progress(lissom, tmp_path):
    run = lissom(*COMPRESS, "--recipe", "eight.yaml", "--out", tmp_path / "out", "--quiet")
    assert (run.exit_code, run.stderr) == (0, "")
    assert "cli_network:build" in run.stdout


def test_dry_run_checks_all_says_what_would_be_done_and_writes_nothing(lissom, tmp_path, folder):
    before = {path.name for path in folder.iterdir()}
    run = lissom(*COMPRESS, "--max-drop", "0.5%", "--out", tmp_path / "out", "--dry-run")
    assert run.exit_code == 0
    for word in ("820 parameters", "180 train", "max_drop 0.005", "8-bit weights", "strength 0.500: Finetune(epochs=20"):
        assert word in run.stdout
    run = lissom(*COMPRESS, "--out", tmp_path / "out", "--dry-run", "--json")
    assert json.loads(run.stdout)["limits"] == "max_drop 0.01"
    assert not (tmp_path / "out").exists()
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before - {"__pycache__"}
    bad = lissom("compress", "cli_network:build", "--data", "labels.npz", "--out", tmp_path / "out", "--dry-run")
    assert bad.exit_code == 4


def test_a_limit_that_is_not_met_ends_with_3_and_the_files_are_there(lissom, tmp_path):
    run = lissom(*COMPRESS, "--recipe", "eight.yaml", "--max-size", "100", "--out", tmp_path / "out")
    assert run.exit_code == 3
    assert "max_size is " in run.stderr
    assert "over the limit of 100 B. The closest result was written" in run.stderr
    assert (tmp_path / "out" / "result.json").is_file()


def test_inspect_lists_layers_and_groups(lissom):
    run = lissom("inspect", "cli_network:build", "--weights", "weights.safetensors")
    assert run.exit_code == 0
    assert run.stdout.startswith("cli_network:build: 820 parameters, 768 MACs a sample; takes features 12")
    for word in ("0.weight", "Linear", "48x12", "Channels that can go"):
        assert word in run.stdout
    found = json.loads(lissom("inspect", "cli_network:build", "--json").stdout)
    assert (found["parameters"], found["macs"], found["groups"][0]["size"]) == (820, 768, 48)


def test_inspect_lists_the_tensors_of_a_file_that_holds_no_network(lissom, folder, tmp_path):
    assert lissom("pack", "weights.safetensors", "-o", tmp_path / "alone.lissom", "--quality", "30").exit_code == 0
    for file, grid in ((folder / "weights.safetensors", ""), (tmp_path / "alone.lissom", "uniform on a trellis")):
        run = lissom("inspect", file)
        assert run.exit_code == 0
        assert f"{file.stat().st_size:,} bytes hold 4 tensors of 3,280 bytes, and no network" in run.stdout
        layer = json.loads(lissom("inspect", file, "--json").stdout)["layers"][0]
        assert (layer["name"], layer["kind"], layer["shape"], layer["grid"]) == ("0.weight", "float32", [48, 12], grid)


def test_inspect_reads_what_compress_wrote(small, lissom):
    for file in ("model.onnx", "model.lissom"):
        found = json.loads(lissom("inspect", small / file, "--json").stdout)
        assert found["layers"]
        assert found["inputs"] == {"features": [12]}


def test_evaluate_gives_the_figure_of_the_record(small, lissom):
    record = json.loads((small / "result.json").read_text())
    for file in ("model.lissom", "model.onnx"):
        run = lissom("evaluate", small / file, "--data", "data.npz", "--json")
        measured = json.loads(run.stdout)
        assert measured["value"] == record["metric"]["after"]
        assert (measured["metric"], measured["split"], measured["n"]) == ("accuracy", "test", 60)
    shown = lissom("evaluate", small / "model.lissom", "--data", "data.npz")
    assert "accuracy" in shown.stdout
    against = lissom(
        "evaluate", small / "model.onnx", "--data", "unlabelled.npz", "--original", small / "model.onnx", "--task", "classify",
        "--json",
    )  # fmt: skip
    assert json.loads(against.stdout)["value"] == 1.0


def test_bench_times_files_side_by_side(small, lissom):
    run = lissom("bench", small / "model.onnx", small / "model.onnx", "--data", "data.npz", "--calls", "20", "--json")
    rows = json.loads(run.stdout)
    assert rows[0]["ratio"] == 1.0
    assert {"file", "runtime", "bytes", "p10_ms", "p50_ms", "cpu"} <= set(rows[0])
    assert re.search(r"\d+ calls each, in turns", lissom("bench", small / "model.onnx", "--calls", "20").stdout)


def test_pack_and_unpack_are_exact(lissom, tmp_path, folder):
    run = lissom("pack", "weights.safetensors", "-o", tmp_path / "model.lissom", "--json")
    told = json.loads(run.stdout)
    assert told["archive"] == (tmp_path / "model.lissom").stat().st_size
    assert told["tensors"] == 4
    assert lissom("unpack", tmp_path / "model.lissom", "-o", tmp_path / "back.safetensors").exit_code == 0
    one, two = load_file(folder / "weights.safetensors"), load_file(tmp_path / "back.safetensors")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_the_archive_gives_back_the_model(small, lissom, tmp_path):
    assert lissom("unpack", small / "model.lissom", "-o", tmp_path / "back.onnx").exit_code == 0
    assert (tmp_path / "back.onnx").read_bytes() == (small / "model.onnx").read_bytes()


def test_doctor_is_json_too(lissom):
    assert json.loads(lissom("doctor", "--json").stdout)


def test_the_demo_wants_a_checkout(lissom):
    run = lissom("demo")
    assert run.exit_code == 2
    assert "run the demo in the top folder of a checkout of lissom" in run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, lissom):
    run = lissom(command, "--help")
    assert run.exit_code == 0
    assert "Usage:" in run.stdout
    assert "Example" in run.stdout


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ).stdout


def test_help_loads_nothing_heavy():
    heavy = "('torch', 'onnx', 'onnxruntime', 'numpy', 'numba', 'pydantic', 'scipy', 'safetensors', 'openvino')"
    told = python(
        "import sys\nfrom lissom.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        f"print('LOADED', [name for name in {heavy} if name in sys.modules])\n"
    )
    assert told.rstrip().endswith("LOADED []")
    for command in COMMANDS:
        assert command in told


def test_the_package_runs_as_a_module():
    run = subprocess.run(
        [sys.executable, "-m", "lissom", "--version"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert version("lissom") in run.stdout


def test_the_shell_completes_commands():
    environment = {
        **os.environ, "_LISSOM_COMPLETE": "complete_bash", "COMP_WORDS": "lissom in", "COMP_CWORD": "1",
    }  # fmt: skip
    code = "import sys; sys.argv = ['lissom']; from lissom.cli import main; main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "inspect" in run.stdout.split()
    assert "compress" not in run.stdout.split()
