"""Options that several commands take, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data", "Device", "Input", "Json", "Model", "PreprocessName", "Quiet", "Seed", "Task", "Trust", "Weights"]

Model = Annotated[
    str, typer.Argument(help="A .onnx, .pt2, .keras, .h5 or .lissom file, or package.module:callable.", metavar="MODEL")
]
Weights = Annotated[Path | None, typer.Option("--weights", help="A .safetensors or .pt file for a module:callable.")]
Data = Annotated[str, typer.Option("--data", help="A .npz file (x, y or x_train, y_train …) or a folder of images.")]
PreprocessName = Annotated[
    str | None, typer.Option("--preprocess", help="How uint8 images become inputs: imagenet, unit, or a YAML file.")
]
Input = Annotated[
    list[str] | None, typer.Option("--input", help="Shape of one sample, for a plain module: 3x224x224. Once per input.")
]
Task = Annotated[
    str | None, typer.Option("--task", help="classify: unlabelled outputs are classes, and agreement counts equal top-1.")
]
Seed = Annotated[int, typer.Option("--seed", help="Decides every random choice.")]
Device = Annotated[str, typer.Option("--device", help="Where training runs: cpu, cuda, cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Let a Keras file run the Python code in it (Lambda layers), or TensorFlow load a SavedModel."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
