"""[records]: the smallest files at a given error, by training against the file, beside the published ones.

    python bench/records.py                           # LeNet-300-100 and LeNet-5 on MNIST; a stopped run goes on where it was
    python bench/records.py --network resnet20        # ResNet-20 on CIFAR-10 (JPEG-recompressed)
    LAB=lab python bench/records.py --network efficientnet_lite0      # by distillation, beside NNCodec
    python bench/records.py --cost                    # time a step of it beside a plain step
    python bench/records.py --check                   # decode every committed archive and recompute its test error
    python bench/records.py --quick                   # one row on the digits of the demo's package: shows that it works

A row is one network, rate weight and seed. LeNet-300-100 starts from random weights, LeNet-5 from a trained one (the same for
all seeds) whose groups lose half of their channels or more. Both train against the file, lose their dead channels, and train
on. They learn labels and what a trained LeNet-5 says of each training image, which is shifted by up to one pixel (the papers
shift nothing).

5,000 of the training images, the same for all seeds, validate. The operating point of a figure is the row of the highest mean
ratio whose mean validation error is within the limit plus 0.2 points. That margin was fixed before the rows: by so much the
validation errors of LeNet-300-100 in bench/deep_compression.py lie above its test errors, and those of the first pilots here.
The test split is read once for each row and decides nothing. Ratios count the weights-only archive, whole.

Published: LeNet-300-100 113x at 1.8 % (Bayesian Compression), 124x at 1.9 % (EPR); LeNet-5 606x at 0.9 % (EPR), 1110x at 0.96 %
and 555x at 0.69 % (MIRACLE); Deep Compression 40x at 1.58 % and 39x at 0.74 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import re
import statistics
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

import resnet_record
import structured
from deep_compression import coded_bytes, job_for, quick_arrays, splits
from harness import ROOT, Bench, arguments, shared
from lissom import edits
from lissom.callables import load_callable
from lissom.codec import Quantized, decode, encode
from lissom.data import Split
from lissom.files import write_bytes
from lissom.job import Job, Step
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.prune.channels import PruneChannels
from lissom.recipe import Recipe
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.rate import Rate, RateTerm
from taught import Taught, ask, taught_loss

SEEDS = (0, 1, 2)
NETWORKS = {
    "lenet_300_100": "examples.lenet:lenet_300_100",
    "lenet_5": "examples.lenet:lenet5",
    "fashion_lenet_5": "examples.lenet:lenet5",
}


@dataclasses.dataclass(frozen=True)
class Point:
    """How one rate weight trains.

    Args:
        epochs: Before and after dead channels go.
        narrow: Share of its channels that each group loses at the start.
    """

    epochs: tuple[int, int]
    narrow: float = 0.0


POINTS = {
    "lenet_300_100": {1.6: Point((6, 24))},
    "lenet_5": {0.25: Point((5, 27), 0.5), 0.8: Point((5, 24), 0.55), 1.6: Point((5, 20), 0.6)},
    "fashion_lenet_5": {0.5: Point((5, 24), 0.3)},
}
LIMITS = {  # figure: network, test error, margin on validation
    "lenet_300_100_ratio": ("lenet_300_100", 0.018, 0.002),
    "lenet_5_ratio_096": ("lenet_5", 0.0096, 0.002),
    "lenet_5_ratio_069": ("lenet_5", 0.0069, 0.002),
}
PUBLISHED = (
    ("lenet_300_100", "Deep Compression (2016)", 40, 0.0158),
    ("lenet_300_100", "Bayesian Compression (2017)", 113, 0.018),
    ("lenet_300_100", "EPR (2020)", 124, 0.019),
    ("lenet_5", "Deep Compression (2016)", 39, 0.0074),
    ("lenet_5", "EPR (2020)", 606, 0.009),
    ("lenet_5", "MIRACLE (2019)", 555, 0.0069),
    ("lenet_5", "MIRACLE (2019)", 1110, 0.0096),
)
CACHE, ARCHIVES = ROOT / "bench" / "cache", ROOT / "bench" / "records"


def recipe(weight: float, point: Point) -> Recipe:
    """Narrow what starts trained, train against the file, remove what died, train on."""
    rate = functools.partial(Rate, weight=weight, resolution=0.5)
    train = functools.partial(Finetune, batch_size=256, learning_rate=3e-3)
    narrow: tuple[Step, ...] = (PruneChannels(ratio=point.narrow, scope="group", importance="l2"),) if point.narrow else ()
    return Recipe((
        *narrow,
        train(epochs=point.epochs[0], optimizer=Optimizer(schedule="constant"), rate=rate(warmup=0.5)),
        PruneChannels(ratio=0),
        train(epochs=point.epochs[1], rate=rate(warmup=0.0)),
        PruneChannels(ratio=0),
    ))  # fmt: skip


def dense(arrays: dict[str, npt.NDArray[Any]], name: str) -> Network:
    """The trained LeNet-5 that teaches, and that LeNet-5 starts from; kept under the ``name`` of its images."""
    network: Network = load_callable(NETWORKS["lenet_5"])()
    file = CACHE / f"records-{name}-lenet5.safetensors"
    full = len(arrays["x_train"]) == 60_000
    if full and file.exists():
        network.module.load_state_dict(load_file(file))
        return network
    job = job_for(splits(arrays, 0), 0)
    network = Finetune(epochs=12 if full else 3, batch_size=256, learning_rate=2e-3).apply(network, job)
    if full:
        CACHE.mkdir(exist_ok=True)
        save_file(network.module.state_dict(), file)
    return network


def taught_job(arrays: dict[str, npt.NDArray[Any]], name: str, teacher: Network, seed: int) -> Job:
    """The splits of seed 0, shuffled and shifted by ``seed``, with the teacher's logits beside the labels."""
    full = len(arrays["x_train"]) == 60_000
    said = ask([teacher], arrays["x_train"], CACHE / f"records-{name}-said.npy" if full else None)
    data = splits(arrays, 0)
    train = Split("train", Taught(arrays["x_train"], arrays["y_train"], said, seed), data.train.numbers)
    return dataclasses.replace(job_for(data, seed), data=dataclasses.replace(data, train=train), loss=taught_loss)


def lenet_row(kind: str, weight: float, seed: int, arrays: dict[str, npt.NDArray[Any]], point: Point) -> dict[str, Any]:
    name = "fashion_mnist" if kind.startswith("fashion") else "mnist"
    teacher = dense(arrays, name)
    job = taught_job(arrays, name, teacher, seed)
    from_trained = kind.endswith("lenet_5")
    start: Network = teacher if from_trained else load_callable(NETWORKS[kind])()
    if not from_trained:
        torch.manual_seed(seed)
        for layer in start.module.children():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    before = fp32_bytes(load_callable(NETWORKS[kind])())
    full = len(arrays["x_train"]) == 60_000
    job = dataclasses.replace(job, checkpoints=CACHE / f"records-{kind}-{weight}-{seed}" if full else None)
    small = recipe(weight, point).apply(start, job)
    found = report(small, before, job, ARCHIVES / f"{kind}-{weight:g}-{seed}.lissom" if full else None)
    return found | {"teacher_test_error": error(teacher, job.data.test, job)}


def report(small: Network, fp32: int, job: Job, file: Path | None) -> dict[str, Any]:
    stored = edits.tensors(small.module)
    size = coded_bytes(stored)
    if file is not None:
        write_bytes(file, encode(stored, effort="best"))
    trained = next(note for note in reversed(small.notes) if "against the archive" in note)
    estimated, written = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes", trained))
    return {
        "validation_error": error(small, job.data.validation, job),
        "test_error": error(small, job.data.test, job),
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": round(fp32 / size, 3),
        "trained": trained,
        "estimated_bytes": estimated,
        "written_bytes": written,
        "estimate_error": round(abs(estimated - written) / written, 6),
        "alive": {name: int((tensor.levels != 0).sum()) for name, tensor in stored.items() if isinstance(tensor, Quantized)},
        "shapes": {name: list(tensor.shape) for name, tensor in stored.items()},
    }


def error(network: Network, split: Split, job: Job) -> float:
    return round(1 - float(measure(network.outputs, split, job.metric).value), 6)


def fp32_bytes(network: Network) -> int:
    return sum(4 * tensor.numel() for tensor in edits.state_dict(network.module).values() if tensor.is_floating_point())


def resnet_row(size: int, seed: int) -> dict[str, Any]:
    network = resnet_record.structured.original()
    before, job = fp32_bytes(network), resnet_record.job_of(seed, network)
    small = resnet_record.trained(size, network, job, CACHE / f"records-resnet20-{seed}")
    found = report(small, before, job, ARCHIVES / f"resnet20-{size}-{seed}.lissom")
    dense = {f"dense_{split.name}_error": error(network, split, job) for split in (job.data.validation, job.data.test)}
    return found | dense | {"drop": round(found["test_error"] - dense["dense_test_error"], 6)}


def step_cost(kind: str, rounds: int, batch: int) -> dict[str, Any]:
    """CPU time of an optimizer step against the file over that of a plain one: the least of ``rounds``, in turns."""
    network: Network = structured.original() if kind == "resnet20" else load_callable(NETWORKS[kind])()
    inputs, labels = torch.rand(batch, *network.example_inputs[0].shape[1:]), torch.randint(0, 10, (batch,))
    modules = [edits.copy(network).module.train() for _ in range(2)]
    term = RateTerm(Rate(), modules[1], 50_000)
    optimizers = [torch.optim.Adam(modules[0].parameters()), torch.optim.Adam(term.groups())]
    taken: list[list[float]] = [[], []]
    for _ in range(rounds):
        for which, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            started = time.process_time()
            for _ in range(20 if which else 5):  # the coefficients are fitted every twentieth step
                with parametrize.cached():
                    loss = cross_entropy(module(inputs), labels)
                loss = loss + term.loss(0.5) if which else loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            taken[which].append((time.process_time() - started) / (20 if which else 5))
    plain, against = (round(1e3 * min(each), 3) for each in taken)
    return {"batch": batch, "plain_ms": plain, "against_ms": against, "step_cost": round(against / plain, 3)}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, (kind, limit, margin) in LIMITS.items():
        found[name] = figure([row for row in rows if row["network"] == kind and "ratio" in row], limit, margin)
    found["resnet20_ratio"] = resnet_record.drop_ratio(rows)
    errors = [row["estimate_error"] for row in rows if "estimate_error" in row]
    found["rate_estimate_error"] = round(statistics.mean(errors), 5) if errors else None
    return found


def figure(rows: list[dict[str, Any]], limit: float, margin: float) -> float | None:
    """Mean ratio at the operating point, if the mean test error there is within the limit."""
    points = [[row for row in rows if row["weight"] == weight] for weight in {row["weight"] for row in rows}]
    within = [
        point
        for point in points
        if len(point) == len(SEEDS) and statistics.mean(row["validation_error"] for row in point) <= limit + margin
    ]
    chosen = max(within, key=lambda point: statistics.mean(row["ratio"] for row in point), default=None)
    if chosen is None or statistics.mean(row["test_error"] for row in chosen) > limit:
        return None
    return round(statistics.mean(row["ratio"] for row in chosen), 3)


def rebuilt(file: Path) -> Network:
    """The network that an archive's tensors make: their shapes say how wide it is."""
    tensors = {
        name: torch.from_numpy(np.array(tensor.dense() if isinstance(tensor, Quantized) else tensor))
        for name, tensor in decode(file.read_bytes()).tensors.items()
    }
    if file.name.startswith("resnet20"):
        network = resnet_record.folded(structured.original())
    else:
        network = load_callable(NETWORKS[file.name.partition("-")[0]])()
        layers = OrderedDict(network.module.named_children())
        for name, layer in layers.items():
            if isinstance(layer, nn.Linear):
                layers[name] = nn.Linear(*reversed(tensors[f"{name}.weight"].shape))
            elif isinstance(layer, nn.Conv2d):
                layers[name] = nn.Conv2d(*reversed(tensors[f"{name}.weight"].shape[:2]), layer.kernel_size)
        network = dataclasses.replace(network, module=nn.Sequential(layers).eval())
    network.module.load_state_dict(tensors)
    return network


def check(bench: Bench) -> None:
    """Recompute the test error of every committed archive, from the archive alone."""
    for row in bench.rows:
        if "ratio" not in row:
            continue
        file = ARCHIVES / f"{row['network']}-{row.get('size') or format(row['weight'], 'g')}-{row['seed']}.lissom"
        if not file.exists():
            continue
        job = checked_on(row["network"].removesuffix("_short"))
        size, found = file.stat().st_size, error(rebuilt(file), job.data.test, job)
        same = "as recorded" if (size, found) == (row["bytes"], row["test_error"]) else f"RECORDED {row['test_error']:.2%}"
        print(f"{file.name}: {size:,} bytes, {row['fp32_bytes'] / size:.1f}x, test error {found:.2%}, {same}")


@functools.cache
def checked_on(kind: str) -> Job:
    """A job whose test split archives of this network are checked on."""
    return resnet_record.job_of(0, structured.original()) if kind == "resnet20" else job_for(splits(images_for(kind), 0), 0)


def images_for(kind: str) -> dict[str, npt.NDArray[Any]]:
    file = np.load(Path(shared(f"data/{'fashion_' if kind.startswith('fashion') else ''}mnist.npz")))
    return {name: file[name] for name in file.files}


def make_rows(bench: Bench, chosen: argparse.Namespace) -> None:
    """The rows that are asked for and do not stand yet."""
    for kind in [kind for kind in POINTS if chosen.network in (kind, None)]:
        for weight in [chosen.weight] if chosen.weight else POINTS[kind]:
            for seed in chosen.seeds:
                make = functools.partial(lenet_row, kind, weight, seed, images_for(kind), POINTS[kind][weight])
                bench.row({"network": kind, "weight": weight, "seed": seed}, make)
    if chosen.network == "resnet20":
        for size in [size for size in resnet_record.SIZES if chosen.size in (size, None)]:
            bench.row({"network": "resnet20", "size": size, "seed": 0}, functools.partial(resnet_row, size, 0))
    if chosen.network == "efficientnet_lite0":
        import lite0_record

        for qp in lite0_record.QPS:
            bench.row(
                {"network": "efficientnet_lite0", "tool": "nncodec", "qp": qp}, functools.partial(lite0_record.by_nncodec, qp)
            )
        for size in lite0_record.SIZES:
            train = functools.partial(lite0_record.by_lissom, size, 0, CACHE / f"records-lite0-{size}")
            bench.row({"network": "efficientnet_lite0", "tool": "lissom", "size": size, "seed": 0}, train)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The mean of each point over its seeds, with what others reached: a line each."""
    lines = [f"{'network':24}{'trained':>12}{'seeds':>6}{'bytes':>11}{'ratio':>8}{'test error':>12}"]
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if "ratio" in row:
            points.setdefault((row["network"], f"to {row['size']:,}" if "size" in row else f"rate {row['weight']:g}"), []).append(
                row
            )
    for (network, how), found in points.items():
        size, ratio, wrong = (statistics.mean(row[name] for row in found) for name in ("bytes", "ratio", "test_error"))
        lines.append(f"{network:24}{how:>12}{len(found):6}{size:11,.0f}{ratio:7.1f}x{wrong:12.2%}")
    return [
        *lines,
        *(f"{name:24}{work:38}{ratio:7}x{wrong:12.2%}" for name, work, ratio, wrong in (*deep_compressed(), *PUBLISHED)),
    ]


def deep_compressed() -> list[tuple[str, str, float, float]]:
    """What pruning, sharing and coding give without the objective: the mean rows of bench/deep_compression.py."""
    file = ROOT / "bench" / "results" / "deep_compression.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    points = sorted({(row["network"], row["sparsity"]) for row in rows})
    found = [[row for row in rows if (row["network"], row["sparsity"]) == point] for point in points]
    means = ([statistics.mean(row[name] for row in same) for name in ("ratio", "test_error")] for same in found)
    return [
        (network, f"prune {sparsity:.1%}, share, code (here)", round(ratio, 1), wrong)
        for (network, sparsity), (ratio, wrong) in zip(points, means, strict=True)
    ]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--network", choices=[*POINTS, "resnet20", "efficientnet_lite0"], help="only this one")
    parser.add_argument("--weight", type=float, help="only this rate weight")
    parser.add_argument("--size", type=int, help="only this one of ResNet-20's")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--check", action="store_true", help="decode the committed archives and recompute their test errors")
    parser.add_argument("--cost", action="store_true", help="time a step against the file beside a plain one")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("records", figures, quick=chosen.quick)
    if chosen.cost:
        for kind, rounds, batch in (("lenet_300_100", 10, 256), ("lenet_5", 5, 256), ("resnet20", 3, 64)):
            bench.row({"network": kind, "cost": "step"}, functools.partial(step_cost, kind, rounds, batch))
        print(bench.save())
        return
    if chosen.check:
        check(bench)
        return
    if chosen.quick:
        key = {"network": "lenet_300_100", "weight": 0.1, "seed": 0}
        bench.row(key, lambda: lenet_row("lenet_300_100", 0.1, 0, quick_arrays(), Point((4, 6))))
    if not chosen.quick:
        make_rows(bench, chosen)
    for line in table(bench.rows):
        print(line)
    print(bench.save())


if __name__ == "__main__":
    main()
