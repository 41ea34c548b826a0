"""[records]: the smallest files at a given error, by training against the file, beside the published ones.

    python bench/records.py                           # LeNet-300-100 and LeNet-5 on MNIST; a stopped run goes on where it was
    python bench/records.py --network resnet20        # ResNet-20 on CIFAR-10 (JPEG-recompressed)
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

import dataclasses
import functools
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
NETWORKS = {"lenet_300_100": "examples.lenet:lenet_300_100", "lenet_5": "examples.lenet:lenet5"}


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
}
LIMITS = {  # figure: network, test error, margin on validation
    "lenet_300_100_ratio": ("lenet_300_100", 0.018, 0.002),
    "lenet_5_ratio_096": ("lenet_5", 0.0096, 0.002),
    "lenet_5_ratio_069": ("lenet_5", 0.0069, 0.002),
}
CACHE, ARCHIVES = ROOT / "bench" / "cache", ROOT / "bench" / "records"


def recipe(weight: float, point: Point) -> Recipe:
    """Narrow what starts trained, train against the file, remove what died, train on."""
    rate = functools.partial(Rate, weight=weight, resolution=0.5, hold=0.0)
    train = functools.partial(Finetune, batch_size=256, learning_rate=3e-3)
    narrow: tuple[Step, ...] = (PruneChannels(ratio=point.narrow, scope="group", importance="l2"),) if point.narrow else ()
    return Recipe((
        *narrow,
        train(epochs=point.epochs[0], optimizer=Optimizer(schedule="constant"), rate=rate(warmup=0.5)),
        PruneChannels(ratio=0),
        train(epochs=point.epochs[1], rate=rate(warmup=0.0)),
        PruneChannels(ratio=0),
    ))  # fmt: skip


def dense(arrays: dict[str, npt.NDArray[Any]]) -> Network:
    """The trained LeNet-5 that teaches, and that LeNet-5 starts from; kept."""
    network: Network = load_callable(NETWORKS["lenet_5"])()
    file = CACHE / "records-lenet5.safetensors"
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


def taught_job(arrays: dict[str, npt.NDArray[Any]], teacher: Network, seed: int) -> Job:
    """The splits of seed 0, shuffled and shifted by ``seed``, with the teacher's logits beside the labels."""
    full = len(arrays["x_train"]) == 60_000
    said = ask([teacher], arrays["x_train"], CACHE / "records-said.npy" if full else None)
    data = splits(arrays, 0)
    train = Split("train", Taught(arrays["x_train"], arrays["y_train"], said, seed), data.train.numbers)
    return dataclasses.replace(job_for(data, seed), data=dataclasses.replace(data, train=train), loss=taught_loss)


def lenet_row(kind: str, weight: float, seed: int, arrays: dict[str, npt.NDArray[Any]], point: Point) -> dict[str, Any]:
    teacher = dense(arrays)
    job = taught_job(arrays, teacher, seed)
    start: Network = teacher if kind == "lenet_5" else load_callable(NETWORKS[kind])()
    if kind != "lenet_5":
        torch.manual_seed(seed)
        for layer in start.module.children():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
    before = fp32_bytes(load_callable(NETWORKS[kind])())
    full = len(arrays["x_train"]) == 60_000
    job = dataclasses.replace(job, checkpoints=CACHE / f"records-{kind}-{weight}-{seed}" if full else None)
    small = recipe(weight, point).apply(start, job)
    return report(small, before, job, ARCHIVES / f"{kind}-{weight:g}-{seed}.lissom" if full else None)


def report(small: Network, fp32: int, job: Job, file: Path | None) -> dict[str, Any]:
    stored = edits.tensors(small.module)
    size = coded_bytes(stored)
    if file is not None:
        write_bytes(file, encode(stored, effort="best"))
    estimated, written = estimate(small)
    return {
        "validation_error": error(small, job.data.validation, job),
        "test_error": error(small, job.data.test, job),
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": round(fp32 / size, 3),
        "trained": small.notes[-1],
        "estimated_bytes": estimated,
        "written_bytes": written,
        "estimate_error": round(abs(estimated - written) / written, 6),
        "alive": {name: int((tensor.levels != 0).sum()) for name, tensor in stored.items() if isinstance(tensor, Quantized)},
        "shapes": {name: list(tensor.shape) for name, tensor in stored.items()},
    }


def estimate(network: Network) -> tuple[int, int]:
    """What the last training expected its archive to take, and what it took, from the note that it left."""
    numbers = [re.findall(r"[\d,]+ bytes", note) for note in network.notes if "against the archive" in note]
    expected, took = (int(number.removesuffix(" bytes").replace(",", "")) for number in numbers[-1])
    return expected, took


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


def step_cost(kind: str) -> dict[str, Any]:
    """CPU time of an optimizer step against the file over that of a plain one, on a batch of 256: the least of ten, in turns."""
    network: Network = load_callable(NETWORKS[kind])()
    inputs, labels = torch.rand(256, 1, 28, 28), torch.randint(0, 10, (256,))
    modules = [edits.copy(network).module for _ in range(2)]
    term = RateTerm(Rate(), modules[1], 55_000)
    optimizers = [torch.optim.Adam(modules[0].parameters()), torch.optim.Adam(term.groups())]
    taken: list[list[float]] = [[], []]
    for _ in range(10):
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
    return {"plain_ms": plain, "against_ms": against, "step_cost": round(against / plain, 3)}


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
        network = load_callable(NETWORKS[next(kind for kind in NETWORKS if file.name.startswith(kind))])()
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
    arrays = mnist()
    for row in bench.rows:
        if "ratio" not in row:
            continue
        file = ARCHIVES / f"{row['network']}-{row.get('size') or format(row['weight'], 'g')}-{row['seed']}.lissom"
        if not file.exists():
            continue
        job = resnet_record.job_of(0, structured.original()) if "size" in row else job_for(splits(arrays, 0), 0)
        size, found = file.stat().st_size, error(rebuilt(file), job.data.test, job)
        same = "as recorded" if (size, found) == (row["bytes"], row["test_error"]) else f"RECORDED {row['test_error']:.2%}"
        print(f"{file.name}: {size:,} bytes, {row['fp32_bytes'] / size:.1f}x, test error {found:.2%}, {same}")


def mnist() -> dict[str, npt.NDArray[Any]]:
    file = np.load(Path(shared("data/mnist.npz")))
    return {name: file[name] for name in file.files}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--network", choices=[*POINTS, "resnet20"], help="only this one")
    parser.add_argument("--weight", type=float, help="only this rate weight")
    parser.add_argument("--size", type=int, help="only this one of ResNet-20's")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--check", action="store_true", help="decode the committed archives and recompute their test errors")
    parser.add_argument("--cost", action="store_true", help="time a step against the file beside a plain one")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("records", figures, quick=chosen.quick)
    if chosen.cost:
        for kind in NETWORKS:
            bench.row({"network": kind, "cost": "step"}, functools.partial(step_cost, kind))
        print(bench.save())
        return
    if chosen.check:
        check(bench)
        return
    if chosen.quick:
        key = {"network": "lenet_300_100", "weight": 0.1, "seed": 0}
        bench.row(key, lambda: lenet_row("lenet_300_100", 0.1, 0, quick_arrays(), Point((4, 6))))
    for kind in () if chosen.quick else [kind for kind in POINTS if chosen.network in (kind, None)]:
        for weight in [chosen.weight] if chosen.weight else POINTS[kind]:
            for seed in chosen.seeds:
                key = {"network": kind, "weight": weight, "seed": seed}
                make = functools.partial(lenet_row, kind, arrays=mnist(), point=POINTS[kind][weight])
                bench.row(key, functools.partial(make, weight=weight, seed=seed))
    sizes = [size for size in resnet_record.SIZES if chosen.size in (size, None)]
    for size in sizes if chosen.network == "resnet20" else ():
        key = {"network": "resnet20", "size": size, "seed": SEEDS[0]}
        bench.row(key, functools.partial(resnet_row, size, SEEDS[0]))
    print(bench.save())


if __name__ == "__main__":
    main()
