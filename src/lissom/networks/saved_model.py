"""A TensorFlow SavedModel, by tf2onnx: it becomes an ONNX model, which then goes in as any other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from lissom.errors import ModelRefused

__all__ = ["convert_saved_model", "is_saved_model"]

OPSET = 17


def is_saved_model(file: Path) -> bool:
    """Whether a path names a SavedModel: its folder, or the file in it."""
    return file.suffix.lower() == ".pb" or (file / "saved_model.pb").is_file()


def convert_saved_model(file: Path, *, trust: bool) -> ModelProto:
    """The SavedModel as an ONNX model, converted in a process of its own, which needs ``lissom[tensorflow]``.

    Args:
        file: The folder, or the ``saved_model.pb`` in it.
        trust: Whether TensorFlow may load it. A SavedModel is a program: its graph can read and write files.

    Raises:
        ModelRefused: no trust, no TensorFlow with tf2onnx, or tf2onnx cannot convert it; the error says what can be done.
    """
    folder = file.parent if file.suffix.lower() == ".pb" else file
    keras_first = "where the Keras model is at hand, save it with  model.save('model.keras')  and give that file"
    missing = [name for name in ("tensorflow", "tf2onnx") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelRefused(
            f"{folder} is a TensorFlow SavedModel, which takes {' and '.join(missing)} to read: {keras_first}; otherwise "
            "pip install 'lissom[tensorflow]'  and give it again with  --trust,  or, where TensorFlow is installed, run  "
            f"python -m tf2onnx.convert --opset {OPSET} --saved-model {folder} --output model.onnx  and give model.onnx"
        )
    if not trust:
        raise ModelRefused(
            f"{folder} is a TensorFlow SavedModel, a program that TensorFlow has to load before it can be converted: "
            f"{keras_first}; otherwise give it again with  --trust,  if you trust who made it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        command = ["-m", "tf2onnx.convert", "--opset", str(OPSET), "--saved-model", str(folder), "--output", str(target)]
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not target.is_file():
            reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it ended without a word")
            raise ModelRefused(f"tf2onnx cannot convert the SavedModel {folder}: {reason}; {keras_first}")
        return onnx.load(str(target))
