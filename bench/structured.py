"""[structured]: ResNet-20 at 1.5x and 3x fewer multiply-accumulates, lissom and torch-pruning with the same fine-tuning.

    python bench/structured.py             # hours on one core; a stopped run goes on where it was
    python bench/structured.py --timed     # the latencies of what was trained: on a quiet machine, a minute
    python bench/structured.py --quick     # no training, few images: two minutes
    python bench/structured.py --untrained # only the rows without training

CIFAR-10 (JPEG-recompressed; the README beside the data says where it is from): 20,000 of the training images train, 2,000
others validate, 512 of the training images calibrate, and the 10,000 test images are read once for each row and decide
nothing. Both networks then train 4 epochs by the same step: SGD with distillation from the original, random flips and shifts.

torch-pruning: the high-level pruner, step by step until the MACs are met, as its README and its benchmark do it, the classifier
left out. Of its documented importances (group L2 norm, group Taylor; local and global) the one with the best validation accuracy
before training stands for it, for each ratio and seed. It needs `pip install torch-pruning==1.6.1`.

The original was trained on all training images, those that validate here among them: a network that stays close to it does
better on them than on new images, so validation accuracies of two tools do not compare; test accuracies do.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import itertools
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from harness import ROOT, Bench, arguments, shared
from lissom.data import Arrays, Data, Split
from lissom.deploy import deploy
from lissom.graph.capture import capture
from lissom.job import Job
from lissom.measure.latency import compare
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network, Preprocess
from lissom.prune.channels import PruneChannels
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss

CACHE = ROOT / "bench" / "cache" / "structured"
"""What a stopped run goes on from: pruned networks, and training by the epoch."""

FACTORS, SEEDS = (1.5, 3.0), (0, 1, 2)
TRAIN, VALIDATION, CALIBRATION = 20_000, 2_000, 512
FINETUNE = Finetune(
    epochs=4,
    learning_rate=0.02,
    batch_size=64,
    optimizer=Optimizer(name="SGD", warmup=0.05, options={"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    distill=Distill(temperature=4.0, weight=0.7),
)


class Augmented:
    """Images [N, 32, 32, 3], flipped and shifted by up to four pixels at random.

    The changes follow from the seed and the batch, so a training that was stopped goes on with the same.
    """

    def __init__(self, plain: Arrays, seed: int) -> None:
        self.plain, self.seed = plain, seed

    def __len__(self) -> int:
        return len(self.plain)

    def fetch(self, numbers: Any) -> Any:
        """These images, each changed anew, and their classes."""
        random = np.random.default_rng((self.seed, *map(int, numbers[:8])))
        images = np.pad(self.plain.inputs[0][numbers], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
        moved = np.empty((len(images), 32, 32, 3), np.uint8)
        for number, (top, left, flip) in enumerate(zip(*random.integers(0, (9, 9, 2), (len(images), 3)).T, strict=True)):
            image = images[number, top : top + 32, left : left + 32]
            moved[number] = image[:, ::-1] if flip else image
        return Arrays((moved,), self.plain.targets[numbers], self.plain.preprocess).fetch(range(len(moved)))


def images(split: str, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The first images of a split (classes are interleaved), decoded."""
    with np.load(shared("data/cifar10_jpeg.npz")) as file:
        packed, offsets, labels = file[f"{split}_data"].tobytes(), file[f"{split}_off"], file[f"{split}_y"]
    pairs = itertools.pairwise(offsets[: count + 1])
    decoded = [np.asarray(Image.open(io.BytesIO(packed[start:end]))) for start, end in pairs]
    return np.stack(decoded), labels[:count].astype(np.int64)


def make_job(seed: int, preprocess: Preprocess, *, quick: bool, train: int = TRAIN, validation: int = VALIDATION) -> Job:
    """The job of one seed."""
    train, validation, test = (2_000, 500, 500) if quick else (train, validation, 10_000)
    pictures, labels = images("train", train + validation)
    pool = Arrays((pictures,), labels, preprocess)
    order = np.random.default_rng(seed).permutation(train + validation)
    pictures, labels = images("test", test)
    splits = {
        "train": Split("train", Augmented(pool, seed), np.sort(order[:train])),
        "calibration": Split("calibration", pool, np.sort(order[:CALIBRATION])),
        "validation": Split("validation", pool, np.sort(order[train:])),
        "test": Split("test", Arrays((pictures,), labels, preprocess), np.arange(test)),
    }
    data = Data(**splits, task="classify")
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), seed=seed)


def original() -> Network:
    """ResNet-20 with its trained weights."""
    sys.path.insert(0, str(shared("networks/resnet20.py").parent))
    from resnet20 import MEAN, STD, resnet20

    return Network(resnet20(), (torch.zeros(2, 3, 32, 32),), preprocess=Preprocess(scale=1 / 255, mean=MEAN, std=STD))


def accuracy(network: Network, split: Split, job: Job) -> float:
    """Share of right answers."""
    return float(measure(network.outputs, split, job.metric).value)


def by_lissom(network: Network, factor: float, job: Job) -> Network:
    """PruneChannels in two rounds; widths are multiples of 8, since kernels are slow on others."""
    return PruneChannels(macs=1 / factor, rounds=2, multiple=8, samples=CALIBRATION).apply(network, job)


def by_torch_pruning(network: Network, factor: float, job: Job) -> Network:
    """The best of torch-pruning's documented settings, by validation accuracy before training."""
    candidates = [
        _torch_pruned(network, factor, job, taylor=taylor, everywhere=everywhere)
        for taylor in (False, True)
        for everywhere in (False, True)
    ]
    return max(candidates, key=lambda found: accuracy(found, job.data.validation, job))


def _torch_pruned(network: Network, factor: float, job: Job, *, taylor: bool, everywhere: bool) -> Network:
    import torch_pruning as tp

    module = copy.deepcopy(network.module)
    target = capture(network).macs / factor
    importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(
        module,
        network.example_inputs,
        importance=importance,
        global_pruning=everywhere,
        pruning_ratio=0.9,
        iterative_steps=200,
        ignored_layers=[module.fc],
    )
    while tp.utils.count_ops_and_params(module, network.example_inputs[0][:1])[0] > target:
        if taylor:
            _accumulate_gradients(module, job)
        pruner.step()
    module.zero_grad()
    return dataclasses.replace(network, module=module)


def _accumulate_gradients(module: nn.Module, job: Job) -> None:
    module.zero_grad()
    for inputs, targets in _some(job.data.calibration.batches(128), 1):
        job.loss((module(*inputs),), targets).backward()


def _some(batches: Iterable[Any], count: int) -> Iterable[Any]:
    return (batch for _, batch in zip(range(count), batches, strict=False))


TOOLS: dict[str, Callable[[Network, float, Job], Network]] = {"lissom": by_lissom, "torch-pruning": by_torch_pruning}


@functools.cache
def pruned_by(tool: str, factor: float, seed: int, *, quick: bool) -> tuple[Network, Network, Job]:
    """The original, what one tool makes of it before training, and the job; kept, so that both rows of a seed are of one."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = original()
    job = make_job(seed, network.preprocess or Preprocess(), quick=quick)
    folder = CACHE / f"{tool}-{factor}-{seed}{'-quick' * quick}"
    job = dataclasses.replace(job, teacher=network, checkpoints=folder)
    kept = folder / "pruned.pt"
    if kept.exists():
        return network, dataclasses.replace(network, module=torch.load(kept, weights_only=False)), job
    pruned = TOOLS[tool](network, factor, dataclasses.replace(job, checkpoints=None))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(pruned.module, kept)
    return network, pruned, job


def make_row(tool: str, factor: float, seed: int, *, train: bool, quick: bool) -> dict[str, Any]:
    """Prune by one tool, train if asked, and report; what lissom trained is kept as a file, to be timed."""
    network, pruned, job = pruned_by(tool, factor, seed, quick=quick)
    if train:
        for module in (
            pruned.module,
            network.module,
        ):  # as torch's own guide has it for convolutions on a CPU: nearly twice as fast
            module.to(memory_format=torch.channels_last)
        pruned = FINETUNE.apply(pruned, job)
        if tool == "lissom":
            deploy(pruned).save(kept_file(factor, seed))
    return {
        "macs_factor": round(capture(network).macs / capture(pruned).macs, 4),
        "validation_accuracy": accuracy(pruned, job.data.validation, job),
        "test_accuracy": accuracy(pruned, job.data.test, job),
        "widths": [part.out_channels for part in pruned.module.modules() if isinstance(part, nn.Conv2d)],
    }


def kept_file(factor: float, seed: int) -> Path:
    """Where the network of a trained row of lissom stands as a float ONNX file."""
    return CACHE / f"{factor}-{seed}.onnx"


def time_row(factor: float, seed: int) -> dict[str, Any]:
    """Latency of the original over that of the trained network's file: ONNX Runtime, one thread, batch 1."""
    before = kept_file(1.0, 0)
    deploy(original()).save(before)
    example = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    timing = compare(before, kept_file(factor, seed), [example])
    found = {"speedup": timing.ratio, "before_ms": timing.before.p10 * 1e3, "after_ms": timing.after.p10 * 1e3}
    return {name: round(value, 4) for name, value in found.items()} | {"stable": timing.stable, "calls": timing.calls}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Points of test accuracy that lissom has more, mean over the seeds that both have; and lissom's speedup at 3x."""
    found: dict[str, float | None] = {}
    for name, factor, trained in (("gain_1_5x", 1.5, True), ("gain_3x", 3.0, True), ("gain_untrained_1_5x", 1.5, False)):
        by_tool = {
            tool: {
                row["seed"]: row for row in rows if (row["tool"], row["factor"], row.get("trained")) == (tool, factor, trained)
            }
            for tool in TOOLS
        }
        both = sorted(set(by_tool["lissom"]) & set(by_tool["torch-pruning"]))
        gains = [
            100 * (by_tool["lissom"][seed]["test_accuracy"] - by_tool["torch-pruning"][seed]["test_accuracy"]) for seed in both
        ]
        found[name] = round(statistics.mean(gains), 3) if gains else None
        found[f"{name}_spread"] = round(max(gains) - min(gains), 3) if gains else None
    speedups = [row["speedup"] for row in rows if row.get("timed") and row["factor"] == 3.0]
    found["speedup_3x"] = round(statistics.median(speedups), 3) if speedups else None
    return found


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--untrained", action="store_true", help="only the rows without training")
    parser.add_argument("--timed", action="store_true", help="only the latencies of what was trained before")
    parser.add_argument("--factors", type=float, nargs="+", default=list(FACTORS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    options = parser.parse_args()
    bench = Bench("structured", figures, quick=options.quick)
    for seed, factor in itertools.product(options.seeds[:1] if options.quick else options.seeds, options.factors):
        if options.timed:
            if kept_file(factor, seed).exists():
                bench.row(
                    {"tool": "lissom", "factor": factor, "seed": seed, "timed": True}, functools.partial(time_row, factor, seed)
                )
            continue
        for tool, trained in itertools.product(options.tools, (False,) if options.quick or options.untrained else (False, True)):
            key = {"tool": tool, "factor": factor, "seed": seed, "trained": trained}
            bench.row(key, functools.partial(make_row, tool, factor, seed, train=trained, quick=options.quick))
    print(bench.save())


if __name__ == "__main__":
    main()
