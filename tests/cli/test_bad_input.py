"""Bad input: one clear sentence on standard error, its exit code, and nothing written."""

from __future__ import annotations

import subprocess
import sys

import pytest

BUILD = ("cli_network:build", "--weights", "weights.safetensors")
CASES = {
    "no such module": (("no_such:build",), "data.npz", (), 2, "no module 'no_such'"),
    "no such callable": (("cli_network:bild",), "data.npz", (), 2, "cli_network has no 'bild'"),
    "not a callable": (("cli_network:not_callable",), "data.npz", (), 2, "is no callable but of type int"),
    "missing model": (("none.onnx",), "data.npz", (), 4, "none.onnx"),
    "missing archive": (("none.lissom",), "data.npz", (), 4, "no archive none.lissom: check the path"),
    "a model of another kind": (("data.npz",), "data.npz", (), 4, "data.npz has no door"),
    "missing weights": (("cli_network:build", "--weights", "none.safetensors"), "data.npz", (), 4, "none.safetensors"),
    "truncated weights": (("cli_network:build", "--weights", "truncated.safetensors"), "data.npz", (), 4, "truncated.safe"),
    "a pickle": (("cli_network:build", "--weights", "pickle.pt"), "data.npz", (), 4, "pickle.pt"),
    "a missing tensor": (("cli_network:build", "--weights", "missing.safetensors"), "data.npz", (), 4, "2.weight"),
    "a tensor of another shape": (("cli_network:build", "--weights", "shape.safetensors"), "data.npz", (), 4, "0.bias"),
    "NaN in weights": (("cli_network:build", "--weights", "nan.safetensors"), "data.npz", (), 4, "NaN"),
    "missing data": (BUILD, "none.npz", (), 4, "no data file none.npz"),
    "truncated data": (BUILD, "truncated.npz", (), 4, "truncated.npz is not a .npz file of plain arrays"),
    "text as data": (BUILD, "text.npz", (), 4, "text.npz is not a .npz file of plain arrays"),
    "pickled data": (BUILD, "objects.npz", (), 4, "it holds pickled objects, which could run code"),
    "a bare array": (BUILD, "bare.npy", (), 4, "bare.npy holds one bare array"),
    "empty data": (BUILD, "empty.npz", (), 4, "is empty: give at least 5 samples"),
    "labels out of range": (BUILD, "labels.npz", (), 4, "label 9 in the"),
    "NaN in data": (BUILD, "nan.npz", (), 4, "holds NaN or infinity in the"),
    "a shape that does not fit": (BUILD, "shape.npz", (), 4, "has shape [5] per sample"),
    "arrays of other names": (BUILD, "names.npz", (), 4, "the data holds pixels, y"),
    "uint8 without a preprocess": (("cli_network:images",), "uint8.npz", (), 4, "uint8 images need a preprocess"),
    "an unknown preprocess": (("cli_network:images",), "uint8.npz", ("--preprocess", "sepia"), 2, "no preprocess 'sepia'"),
    "a drop in bad units": (BUILD, "data.npz", ("--max-drop", "1 point"), 2, "--max-drop is '1 point'; write it like 1%"),
    "a size in bad units": (BUILD, "data.npz", ("--max-size", "2 floppies"), 2, "--max-size is '2 floppies'; write it like 2MB"),
    "a latency without unit": (BUILD, "data.npz", ("--max-latency", "5"), 2, "--max-latency is '5'; write it like 5ms"),
    "a time in bad units": (BUILD, "data.npz", ("--max-time", "soon"), 2, "--max-time is 'soon'; write it like"),
    "an unknown goal": (BUILD, "data.npz", ("--goal", "fame"), 2, "goal is 'fame'; it must be one of size, latency"),
    "an unknown device": (BUILD, "data.npz", ("--device", "abacus"), 2, "device is 'abacus'"),
    "a missing recipe": (BUILD, "data.npz", ("--recipe", "none.yaml"), 2, "no recipe file none.yaml"),
    "a recipe that is none": (BUILD, "data.npz", ("--recipe", "weights.safetensors"), 2, "recipe"),
    "a name that is no input shape": (("cli_network:plain",), "data.npz", ("--input", "3xtwo"), 2, "3xtwo"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_compress_refuses(case, lissom, tmp_path):
    model, data, options, code, told = CASES[case]
    run = lissom("compress", *model, "--data", data, *options, "--out", tmp_path / "out")
    assert (run.exit_code, run.stdout) == (code, ""), run.output
    assert told in run.stderr
    assert run.stderr.startswith("lissom: ")
    assert len(run.stderr.strip().splitlines()) == 1
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("evaluate", "none.onnx", "--data", "data.npz"), 4, "none.onnx"),
        (("evaluate", *BUILD, "--data", "unlabelled.npz"), 4, "the data has no labels: name the network to agree with"),
        (("bench", "none.onnx"), 4, "none.onnx"),
        (("bench", "text.npz"), 4, "text.npz"),
        (("pack", "none.safetensors", "-o", "x.lissom"), 4, "none.safetensors"),
        (("pack", "truncated.safetensors", "-o", "x.lissom"), 4, "truncated.safetensors"),
        (("pack", "pickle.pt", "-o", "x.lissom"), 4, "pickle.pt"),
        (("unpack", "none.lissom", "-o", "x.safetensors"), 4, "none.lissom"),
        (("unpack", "data.npz", "-o", "x.safetensors"), 4, "this is not a .lissom archive"),
        (("inspect", "truncated.safetensors"), 4, "truncated.safetensors"),
        (("inspect", "cli_network:plain"), 4, "--input"),
    ],
)
def test_the_other_commands_refuse(arguments, code, told, lissom, folder):
    run = lissom(*arguments)
    assert (run.exit_code, run.stdout) == (code, ""), run.output
    assert told in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (folder / "x.lissom").exists()
    assert not (folder / "x.safetensors").exists()


def test_an_out_folder_that_holds_something_else_is_left_alone(lissom, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    run = lissom("compress", *BUILD, "--data", "data.npz", "--recipe", "eight.yaml", "--out", tmp_path / "out")
    assert run.exit_code == 2
    assert "holds files that lissom did not write: choose another folder, or add --force" in run.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_no_room_for_files_is_one_sentence_and_leaves_what_stood_there(lissom, folder, tmp_path):
    """A limit on the size of files, as a full disk: writing fails half way through."""
    assert lissom("pack", "weights.safetensors", "-o", folder / "warm.lissom").exit_code == 0  # compiles, and keeps that
    target = tmp_path / "model.lissom"
    target.write_bytes(b"what stood there")
    code = (
        "import resource, signal, sys\nfrom lissom.cli import main\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        f"sys.argv = ['lissom', 'pack', 'weights.safetensors', '-o', {str(target)!r}]\nmain()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert f"cannot write {target}: File too large" in run.stderr
    assert target.read_bytes() == b"what stood there"
    assert [path.name for path in tmp_path.iterdir()] == ["model.lissom"]


def test_options_are_checked_by_the_parser_too(lissom):
    run = lissom("compress", *BUILD, "--data", "data.npz")
    assert run.exit_code == 2
    assert "--out" in run.stderr
    assert lissom("shrink").exit_code == 2
