"""[quantization]: lissom beside ONNX Runtime's quantizer and NNCF, on the same calibration inputs and one thread.

    LAB=lab python bench/quantization.py                  # every row; a stopped run goes on where it was
    LAB=lab python bench/quantization.py --only lite0     # rows of one network: lite0, minilm, resnet20, trained
    LAB=lab python bench/quantization.py --only latency   # times the files of the first split, when nothing else runs
    LAB=lab python bench/quantization.py --only minilm --splits 0 --again   # lissom's file and the row anew; peers' files stand
    python bench/quantization.py --quick                  # ResNet-20's rows on few images

Networks and data: see the README beside the shared data. EfficientNet-lite0: of 500 photos, those whose number is k modulo 5
calibrate and the other 400 report, for k = 0 … 4. MiniLM: sentences alike. ResNet-20: 512 training images calibrate, and
the 10,000 test images report. Peers get their best: of every setting that is tried, the one with the least error on the very
photos that report. Of MiniLM, ONNX Runtime's quantizer is asked for products with weights alone: with every operator in
integers, its error on calibration sentences was 0.65. What lissom does was chosen on the calibration photos of split 0: 60
calibrated, and 40 told which choice was better. Needs onnxruntime; NNCF may run in an environment of its own (NNCF_PYTHON, its
python; its rows are skipped without). torchao and Neural Compressor lie in a folder of their own (TORCH_PEERS), made by
``pip install --no-deps --target FOLDER torchao neural-compressor py-cpuinfo prettytable wcwidth schema deprecated wrapt psutil``;
they are tried on split 0 alone, where neither is the best peer.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

import structured
from harness import ROOT, Bench, arguments
from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.verify import agreement, compare
from lissom.errors import LissomError
from lissom.job import Job
from lissom.measure.latency import time_in_turns
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.rounding import RoundWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.runtimes import open_file
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss
from quantization_cost import kept, largest_layer, ready
from quantization_data import ERRORS, NETWORKS, SPLITS, cosine_errors, lite0, minilm, split_of
from quantization_peers import by_nncf, by_onnxruntime, by_torch

Array = npt.NDArray[Any]
BATCH = 20
CALLS = 200
TARGET = "onnxruntime-cpu"
CACHE = ROOT / "bench" / "cache" / "quantization"


def job_for(network: Network, samples: tuple[Array, ...]) -> Job:
    data = Data.of(Arrays(samples), seed=0)
    every = dataclasses.replace(data.calibration, numbers=np.arange(len(samples[0])))
    data = dataclasses.replace(data, calibration=every)
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def answers(file: bytes | str | Path, samples: tuple[Array, ...], **options: Any) -> Array:
    session = open_file(file, **options)
    parts = range(0, len(samples[0]), BATCH)
    return np.concatenate([session(*(part[start : start + BATCH] for part in samples))[0] for start in parts])


# --- lissom


RECIPES: dict[str, Recipe] = {
    "W8A8": Recipe((QuantizeActivations(target=TARGET), RoundWeights(bits=8))),
    # On 48 calibration sentences beside 72 others: 0.0019; weights rounded to nearest with biases corrected 0.0021, moved by
    # a ridge of 1.0 too 0.0023, without smoothing 0.0065.
    "W8A8 minilm": Recipe(
        (QuantizeActivations(target=TARGET, ranges="minmax", smooth=True), RoundWeights(bits=8, ridge=None)),
    ),
    "W4A8": Recipe((QuantizeActivations(types="U8S4", target=TARGET), RoundWeights(bits=4))),
    "W4A4": Recipe((QuantizeActivations(types="U4S4", target=TARGET, samples=256), RoundWeights(bits=4, samples=256))),
    "W2A4": Recipe((QuantizeActivations(types="U4S4", target=TARGET, samples=256), RoundWeights(bits=2, samples=256))),
}


INT8 = {"lite0": "W8A8", "minilm": "W8A8 minilm"}


def by_lissom(name: str, network: Network, samples: tuple[Array, ...]) -> bytes:
    """The file that a recipe gives, proved."""
    made = RECIPES[name].apply(network, job_for(network, samples))
    deployed = deploy(made)
    verify(deployed, made, [tuple(part[start : start + 8] for part in samples) for start in range(0, 32, 8)])
    return deployed.to_bytes()


# --- rows


def int8_row(kind: str, number: int) -> dict[str, Any]:
    """One split: errors of every file on the samples that report, and what it took to make them."""
    torch.set_num_threads(1)
    network, samples = NETWORKS[kind]()
    seen, unseen = split_of(samples, number)
    folder = CACHE / f"{kind}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "float.onnx"
    ready()
    plain = kept(source, lambda: (deploy(network).save(source), answers(source, seen)))
    ours, recipe = folder / "lissom.onnx", INT8[kind]
    made = {"lissom": kept(ours, lambda: ours.write_bytes(by_lissom(recipe, network, seen)))}
    made |= by_onnxruntime(kind, source, network, seen, folder) | by_nncf(kind, network, seen, folder)
    made |= by_torch(kind, number, folder)
    expected = answers(source, unseen)
    errors, refused = {}, {}
    for tool, found in made.items():
        try:
            errors[tool] = ERRORS[kind](expected, answers(found.file, unseen))
        except LissomError as error:  # a file that ONNX Runtime does not open is no peer
            refused[tool] = str(error)
    best = min((tool for tool in errors if tool != "lissom"), key=lambda tool: errors[tool].mean())
    ratio, bound = paired(errors["lissom"], errors[best])
    return {
        "errors": {tool: float(found.mean()) for tool, found in errors.items()},
        "refused": refused,
        "best_peer": best,
        "ratio": ratio,
        "ratio_95": bound,
        "bytes": {tool: found.file.stat().st_size for tool, found in made.items()},
        "cpu_seconds": {tool: round(found.seconds, 1) for tool, found in made.items()},
        "extra_mb": {tool: found.memory for tool, found in ({"float": plain} | made).items() if found.memory is not None},
        "largest_layer_mb": round(largest_layer(network, seen) / 1e6),
        "recipe": RECIPES[recipe].in_words(),
    }


def paired(ours: Array, theirs: Array, draws: int = 2000) -> tuple[float, float]:
    """The ratio of mean errors, and its one-sided 95 % bound by resampling the same samples for both."""
    places = np.random.default_rng(0).integers(0, len(ours), (draws, len(ours)))
    ratios = ours[places].mean(1) / theirs[places].mean(1)
    return float(ours.mean() / theirs.mean()), float(np.quantile(ratios, 0.95))


def latency_row(kind: str) -> dict[str, Any]:
    """10th percentiles in ms of the files of the first split, in turns, one thread; run it on a quiet machine."""
    sample = tuple(part[:1] for part in split_of(NETWORKS[kind]()[1], 0)[1])
    files = [*sorted((CACHE / f"{kind}-0").glob("*.onnx")), *sorted((CACHE / f"{kind}-int4-0").glob("*.onnx"))]
    sessions = {
        ("int4-" if "int4" in file.parent.name else "") + file.stem: open_file(file)
        for file in files
        if file.stem not in ("prepared", "nncf-source", "nearest")
    }
    timed = time_in_turns({tool: functools.partial(session, *sample) for tool, session in sessions.items()}, calls=CALLS)
    return {"latency": {tool: round(found.p10 * 1e3, 4) for tool, found in timed.items()}, "openvino": in_openvino(kind)}


def in_openvino(kind: str) -> dict[str, float] | None:
    """How near OpenVINO answers to ONNX Runtime, node by node, on the same file; None where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    file = CACHE / f"{kind}-0" / "lissom.onnx"
    sample = tuple(part[:64] for part in split_of(NETWORKS[kind]()[1], 0)[1])
    got, expected = (open_file(file, "openvino")(*sample), open_file(file, optimize=False)(*sample))
    near = compare([got], [expected], runtime="openvino", kind="integer")
    return {"cosine": near.cosine, "agreement": near.agreement, "n": near.n}


def agreement_row(number: int) -> dict[str, Any]:
    """EfficientNet-lite0 in W4A8: agreement with float, beside rounding to nearest."""
    torch.set_num_threads(1)
    network, samples = lite0()
    seen, unseen = split_of(samples, number)
    folder = CACHE / f"lite0-w4a8-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    ours, plain, source = folder / "lissom.onnx", folder / "nearest.onnx", folder / "float.onnx"

    def nearest() -> None:
        settings = Deploy(precision="int8", types="U8S4", ranges="mse", target=TARGET)
        deploy(network, settings, [(part,) for part in np.array_split(seen[0], 4)]).save(plain)

    made = kept(ours, lambda: ours.write_bytes(by_lissom("W4A8", network, seen)))
    files = [made, kept(plain, nearest), kept(source, lambda: deploy(network).save(source))]
    got, rounded, expected = (answers(found.file, unseen) for found in files)
    return {
        "agreement": agreement(got, expected),
        "agreement_of_nearest": agreement(rounded, expected),
        "bytes": ours.stat().st_size,
        "cpu_seconds": made.seconds,
        "recipe": RECIPES["W4A8"].in_words(),
    }


def resnet_row(name: str, *, quick: bool) -> dict[str, Any]:
    """ResNet-20's test accuracy, computed on the QDQ file, without training."""
    torch.set_num_threads(1)
    network = structured.original()
    job = structured.make_job(0, network.preprocess, quick=quick)  # type: ignore[arg-type]
    test = [(inputs[0].numpy(), labels.numpy()) for inputs, labels in job.data.test.batches(100)]
    made = RECIPES[name].apply(network, job)
    deployed = deploy(made)
    parity = verify(deployed, made, [job.data.calibration.first(64)[0]])
    before, after = (accuracy(file, test) for file in (deploy(network).to_bytes(), deployed.to_bytes()))
    return {
        "accuracy_before": before,
        "accuracy": after,
        "drop": round(100 * (before - after), 3),
        "bytes": len(deployed.to_bytes()),
        "parity_cosine": parity.cosine,
        "recipe": RECIPES[name].in_words(),
    }


TRAINING = Finetune(  # batch norms are folded: SGD at the rate of bench/structured.py throws the weights apart
    epochs=4, learning_rate=3e-4, batch_size=64, distill=Distill(temperature=4.0, weight=0.7), optimizer=Optimizer(warmup=0.05)
)  # fmt: skip


def trained_row(name: str, *, quick: bool) -> dict[str, Any]:
    """The same graph, trained as it is deployed: weights through their grids, steps of activations too."""
    torch.set_num_threads(1)
    network = structured.original()
    job = structured.make_job(0, network.preprocess, quick=quick)  # type: ignore[arg-type]
    job = dataclasses.replace(job, teacher=network)
    if not quick:
        folder = CACHE / f"trained-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        job = dataclasses.replace(job, checkpoints=folder)
    test = [(inputs[0].numpy(), labels.numpy()) for inputs, labels in job.data.test.batches(100)]
    recipe = Recipe((*RECIPES[name].steps, TRAINING))
    made = recipe.apply(network, job)
    deployed = deploy(made)
    before, after = (accuracy(file, test) for file in (deploy(network).to_bytes(), deployed.to_bytes()))
    return {
        "accuracy_before": before,
        "accuracy": after,
        "drop": round(100 * (before - after), 3),
        "validation_accuracy": structured.accuracy(made, job.data.validation, job),
        "bytes": len(deployed.to_bytes()),
        "recipe": recipe.in_words(),
    }


def accuracy(file: bytes, test: list[tuple[Array, Array]]) -> float:
    session = open_file(file)
    right = [(session(inputs)[0].argmax(1) == labels).sum() for inputs, labels in test]
    return float(sum(right) / sum(len(labels) for _, labels in test))


def int4_row(number: int) -> dict[str, Any]:
    """MiniLM with 4-bit weights alone, in groups of 32: by data, beside rounding to nearest.

    ``kernels`` are of the file in which the runtime rounds activations to 8 bits as they come; the others decode in float. Its
    ``cosine`` is with the same file run operator by operator: embeddings have no top class, whose agreement ``verify`` asks for.
    """
    torch.set_num_threads(1)
    network, samples = minilm()
    seen, unseen = split_of(samples, number)
    expected = answers(deploy(network).to_bytes(), unseen)
    job = job_for(network, seen)
    folder = CACHE / f"minilm-int4-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    only = tuple(name for name in edits.selected(network.module) if name.startswith("layers."))
    found: dict[str, Any] = {}
    for name, step, precision in (
        ("gptq", RoundWeights(bits=4, granularity=32, include=only), "float32"),
        ("nearest", QuantizeWeights(bits=4, granularity=32, include=only), "float32"),
        ("kernels", RoundWeights(bits=4, granularity=32, include=only), "int8-dynamic"),
    ):
        made = step.apply(network, job)
        deployed = deploy(made, Deploy(precision=precision, target=TARGET))
        file, shown = deployed.to_bytes(), tuple(part[:32] for part in seen)
        if precision == "float32":
            verify(deployed, made, [shown])
        else:
            pair = [open_file(file, optimize=optimize)(*shown) for optimize in (True, False)]
            found["cosine"] = compare(pair[:1], pair[1:], runtime="onnxruntime", kind="integer").cosine
        (folder / f"{name}.onnx").write_bytes(file)
        found[f"error_{name}"] = float(cosine_errors(expected, answers(file, unseen)).mean())
        found[f"bytes_{name}"] = len(file)
    return found | {"kernels": kernels(file), "ratio": found["error_gptq"] / found["error_nearest"]}


def kernels(file: bytes) -> int:
    """How many products ONNX Runtime computes by MatMulNBits."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return sum(node.op_type == "MatMulNBits" for node in onnx.load(options.optimized_model_filepath).graph.node)


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Means over the splits, once all are there: the mean of those whose files were handed over would leave the refused out."""
    by_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["network"], row["what"]), []).append(row)

    def mean(network: str, what: str, field: str, needed: int) -> float | None:
        found = [row[field] for row in by_key.get((network, what), ())]
        return round(float(np.mean(found)), 4) if len(found) >= needed else None

    timed = next((row["latency"] for row in by_key.get(("lite0", "latency"), ())), None)
    fastest = (
        None if timed is None else min(ms for tool, ms in timed.items() if tool not in ("lissom", "float") and "int4" not in tool)
    )
    return {
        "lite0_int8_divergence_ratio": mean("lite0", "int8", "ratio", SPLITS),
        "lite0_int8_divergence_ratio_95": mean("lite0", "int8", "ratio_95", SPLITS),
        "lite0_int8_latency_ratio": None if timed is None or fastest is None else round(timed["lissom"] / fastest, 4),
        "minilm_int8_error_ratio": mean("minilm", "int8", "ratio", SPLITS),
        "minilm_int4_error_ratio": mean("minilm", "int4", "ratio", SPLITS),
        "lite0_w4a8_agreement": mean("lite0", "W4A8", "agreement", SPLITS),
        "lite0_int8_splits": len(by_key.get(("lite0", "int8"), ())),
        "lite0_w4a8_splits": len(by_key.get(("lite0", "W4A8"), ())),
        "minilm_int8_splits": len(by_key.get(("minilm", "int8"), ())),
        "resnet20_w4a4_drop": mean("resnet20", "W4A4", "drop", 1),
        "resnet20_w4a4_trained_drop": mean("trained", "W4A4", "drop", 1),
    }


def forget(bench: Bench, networks: list[str], what: list[str], splits: list[int]) -> None:
    """Leave out the rows that were asked for, and the files of lissom's that they are of."""
    bench.forget(lambda row: row["network"] in networks and row["what"] in what and row.get("split") in splits)
    folders = {"int8": "{}-{}", "W4A8": "{}-w4a8-{}"}
    for kind, name, number in itertools.product(networks, what, splits):
        (CACHE / folders.get(name, "").format(kind, number) / "lissom.seconds").unlink(missing_ok=True)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["lite0", "minilm", "resnet20", "trained", "latency"], nargs="+")
    parser.add_argument("--what", choices=["int8", "W4A8", "int4"], nargs="+", default=["int8", "W4A8", "int4"])
    parser.add_argument("--types", choices=["W4A4", "W8A8", "W4A8", "W2A4"], nargs="+", default=["W4A4", "W8A8", "W4A8", "W2A4"])
    parser.add_argument("--splits", type=int, nargs="+", default=list(range(SPLITS)))
    parser.add_argument("--again", action="store_true", help="make rows and lissom's files anew, where they are of older code")
    options = parser.parse_args()
    bench = Bench("quantization", figures, quick=options.quick)
    if options.again:
        forget(bench, options.only or [], options.what, options.splits)
    chosen = ["resnet20"] if options.quick else options.only or ["resnet20", "lite0", "minilm"]
    if "resnet20" in chosen:
        for name in ("W4A4",) if options.quick else options.types:
            bench.row({"network": "resnet20", "what": name}, functools.partial(resnet_row, name, quick=options.quick))
    for name in options.types if "trained" in chosen else ():
        bench.row({"network": "trained", "what": name}, functools.partial(trained_row, name, quick=options.quick))
    for number in () if options.quick else options.splits:
        for kind in ("lite0", "minilm"):
            if kind in chosen and "int8" in options.what:
                bench.row({"network": kind, "what": "int8", "split": number}, functools.partial(int8_row, kind, number))
        if "lite0" in chosen and "W4A8" in options.what:
            bench.row({"network": "lite0", "what": "W4A8", "split": number}, functools.partial(agreement_row, number))
        if "minilm" in chosen and "int4" in options.what:
            bench.row({"network": "minilm", "what": "int4", "split": number}, functools.partial(int4_row, number))
    for kind in ("lite0", "minilm") if "latency" in chosen else ():
        bench.row({"network": kind, "what": "latency"}, functools.partial(latency_row, kind))
    print(bench.save())


if __name__ == "__main__":
    main()
