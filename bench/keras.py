"""Keras in and out: every layer with weights, the architectures of keras.applications, and the articles' own examples.

    python bench/keras.py [--only layers|applications|articles] [NAME ...]

A row is kept at once, so a stopped run goes on where it stopped. Weights are random where the row needs none that work.
"""

# A script's own folder comes first on the path, where this file would stand in the place of the keras package.
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [*(entry for entry in sys.path if Path(entry or ".").resolve() != HERE), str(HERE)]

import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import lissom  # noqa: E402
from harness import ROOT, Bench, arguments, shared  # noqa: E402
from keras_layers import LAYERS, settle  # noqa: E402
from lissom import edits  # noqa: E402
from lissom.deploy import deploy, verify  # noqa: E402
from lissom.deploy.keras import deploy_keras  # noqa: E402
from lissom.errors import LissomError  # noqa: E402
from lissom.graph.capture import capture  # noqa: E402
from lissom.graph.groups import groups  # noqa: E402
from lissom.graph.slicing import remove  # noqa: E402
from lissom.network import Network  # noqa: E402
from lissom.networks import open_network  # noqa: E402
from lissom.networks.keras import import_keras  # noqa: E402

SAMPLES = 48
CLASSES = 10

APPLICATIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "MobileNet": (32, {"alpha": 0.25}),
    "MobileNetV2": (32, {"alpha": 0.35}),
    "MobileNetV3Small": (32, {}),
    "VGG16": (32, {}),
    "ResNet50": (32, {}),
    "ResNet50V2": (32, {}),
    "VGG19": (32, {}),
    "MobileNetV3Large": (32, {}),
    "EfficientNetB0": (32, {}),
    "Xception": (71, {}),
    "ConvNeXtTiny": (32, {}),
    "EfficientNetV2B0": (32, {}),
    "InceptionV3": (75, {}),
    "DenseNet121": (32, {}),
    "EfficientNetB1": (32, {}),
    "EfficientNetV2B1": (32, {}),
    "ResNet101": (32, {}),
    "ResNet101V2": (32, {}),
    "DenseNet169": (32, {}),
    "InceptionResNetV2": (75, {}),
}
"""Side of the images, and what makes the network smaller without making it another architecture; Keras has no NASNet on torch."""

ARTICLES: dict[str, tuple[int, ...]] = {"dense-256-128-10": (256, 128, 10), "dense-64-10": (64, 10)}
"""Units of the articles' networks on MNIST."""


def _inputs(network: Network) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(SAMPLES, *example.shape[1:], generator=generator)
        if example.is_floating_point()
        else torch.randint(0, 20, (SAMPLES, *example.shape[1:]), generator=generator).to(example.dtype)
        for example in network.example_inputs
    )


def _parameters(network: Network) -> int:
    return sum(parameter.numel() for _, parameter in edits.weights(network.module))


def layer(name: str) -> dict[str, Any]:
    """In from a file; half of every group of channels, then half of the weights that are left, gone; out, with parity."""
    keras = import_keras()
    row: dict[str, Any] = {"passed": False}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model = settle(LAYERS[name](keras))
        model.save(file)
        try:
            network = open_network(file)
            inputs = _inputs(network)
            with torch.no_grad():
                same = torch.allclose(network.outputs(*inputs)[0], model(inputs[0], training=False), atol=1e-5)
            graph = capture(network)
            removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
            edited = edits.copy(removal.network)
            for tensor in edits.selected(edited.module):
                values = edits.value(edited.module, tensor).abs()
                edits.attach(edited.module, tensor, mask=values >= values.median())
            data, parity = deploy_keras(edited, [inputs])
            row |= {
                "same_in": same,
                "parameters": [_parameters(network), _parameters(edited)],
                "bytes": [file.stat().st_size, len(data)],
                "left_alone": sorted(removal.refused),
                "keras_max_relative": parity.max_relative,
                "onnx_max_relative": verify(deploy(edited), edited, [inputs]).max_relative,
            }
            row["passed"] = same
        except LissomError as error:
            row["failure"] = str(error)[:300]
    return row


def application(name: str) -> dict[str, Any]:
    """Through compress by a recipe that cuts channels and shares weights, and out as .keras and .onnx with parity."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    side, options = APPLICATIONS[name]
    # Scores, because a softmax over those of random weights says 0 and 1, whatever becomes of the weights.
    options = {**options, "classifier_activation": None}
    model = getattr(keras.applications, name)(weights=None, classes=CLASSES, input_shape=(side, side, 3), **options)
    images = np.random.default_rng(0).uniform(0, 255, (SAMPLES, side, side, 3)).astype(np.float32)
    recipe = [
        lissom.PruneChannels(ratio=0.25, importance="l1", scope="group", reconstruct=False),
        lissom.QuantizeWeights(bits=8),
    ]
    row: dict[str, Any] = {"passed": False, "side": side, **options}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.save(file)
        try:
            result = lissom.compress(str(file), images, recipe=recipe, out=Path(folder) / "out", task="classify")
        except LissomError as error:
            return {**row, "failure": str(error)[:300]}
        record = result.record
        found = {entry.runtime: entry.max_relative for entry in record.parity}
        row |= {
            "parameters": [record.parameters.before, record.parameters.after],
            "bytes": {"before": file.stat().st_size} | {path.name: path.stat().st_size for path in result.files.values()},
            "max_relative": found,
            "left_alone": len([note for note in record.notes if "left alone" in note]),
        }
        row["passed"] = {"keras", "onnxruntime"} <= set(found) and row["parameters"][1] < 0.9 * row["parameters"][0]
    return row


def article(name: str) -> dict[str, Any]:
    """Train with Keras, save, and compress from the file by the one command that a user types."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    data = np.load(shared("data/mnist.npz"))
    x, test = (data[key].reshape(-1, 784).astype(np.float32) / 255 for key in ("x_train", "x_test"))
    layers = [keras.layers.Dense(units, activation="relu") for units in ARTICLES[name][:-1]]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(ARTICLES[name][-1], activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, data["y_train"].astype(np.int64), epochs=5, batch_size=256, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.keras")
        np.savez(
            f"{folder}/mnist.npz",
            x_train=x,
            y_train=data["y_train"].astype(np.int64),
            x_test=test,
            y_test=data["y_test"].astype(np.int64),
        )
        command = ["lissom", "compress", "model.keras", "--data", "mnist.npz", "--max-drop", "0.5%", "--out", "small", "--json"]
        done = subprocess.run(
            [str(Path(sys.executable).parent / "lissom"), *command[1:]],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not (Path(folder) / "small" / "result.json").is_file():
            return {"passed": False, "failure": done.stderr[-300:]}
        record = json.loads((Path(folder) / "small" / "result.json").read_text(encoding="utf-8"))
        sizes = {file.name: file.stat().st_size for file in (Path(folder) / "small").iterdir() if file.name.startswith("model.")}
    latency = record["latency"][0]
    return {
        "passed": all(limit["met"] for limit in record["limits"]),
        "command": " ".join(command),
        "accuracy": [record["metric"]["before"], record["metric"]["after"]],
        "bytes": {"before": record["bytes"]["source"], "weights_only": record["bytes"]["weights_only"], **sizes},
        "ratio": record["ratio"],
        "latency_ms": [latency["before_ms"]["p10"], latency["after_ms"]["p10"]],
        "parity": {entry["runtime"]: entry["max_relative"] for entry in record["parity"]},
    }


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    layers = [row for row in rows if row["what"] == "layers"]
    applications = [row for row in rows if row["what"] == "applications"]
    return {
        "layers_share": sum(row["passed"] for row in layers) / len(LAYERS) if layers else None,
        "applications": sum(row["passed"] for row in applications) if applications else None,
    }


KINDS: dict[str, tuple[Sequence[str], Callable[[str], dict[str, Any]]]] = {
    "layers": (list(LAYERS), layer),
    "articles": (list(ARTICLES), article),
    "applications": (list(APPLICATIONS), application),
}
QUICK = {"layers": ("Dense", "Conv2D", "LSTM", "MultiHeadAttention"), "applications": (), "articles": ()}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", choices=list(KINDS), help="one kind of rows")
    parser.add_argument("names", nargs="*", help="these rows only")
    chosen = parser.parse_args()
    bench = Bench("keras", figures, quick=chosen.quick)
    for kind, (names, make) in KINDS.items():
        for name in QUICK[kind] if chosen.quick else names:
            if chosen.only in (None, kind) and (not chosen.names or name in chosen.names):
                bench.row({"what": kind, "name": name}, lambda make=make, name=name: make(name))
    print(json.dumps(bench.save()))


if __name__ == "__main__":
    main()
