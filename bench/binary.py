"""[binary]: a binary-weight MLP on permutation-invariant MNIST, trained through the grid as a parametrization.

    python bench/binary.py             # ten minutes a seed on one core; a stopped run goes on after its last whole epoch
    python bench/binary.py --quick     # two epochs on few images: shows that it works

Every weight matrix, the last one too, is plus or minus one scale (BinaryConnect, arXiv:1511.00363, with XNOR-Net's scale);
biases and normalisations are float. Products are computed in bfloat16, all else in float32. Nothing is told about pixels' places.
The last 10,000 training images validate, and the epoch is the one of least validation error; the test images are read once.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import ROOT, Bench, arguments, shared
from lissom import edits
from lissom.codec import encode
from lissom.data import Arrays, Data, Split
from lissom.job import Job
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network, Preprocess
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.train.finetune import Finetune, Optimizer

SEEDS = (0, 1, 2)
HIDDEN, DROPOUT = 1024, (0.2, 0.3)
EPOCHS = 45
VALIDATION = 10_000
TO_UNIT = Preprocess(scale=1 / 255, mean=(0.1307,), std=(0.3081,))


def mlp(hidden: int) -> nn.Module:
    """784 inputs, three hidden layers with normalisation, 10 classes."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Dropout(DROPOUT[0])]
    for width in (784, hidden, hidden):
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(DROPOUT[1])]
    return nn.Sequential(*layers, nn.Linear(hidden, 10, bias=False), nn.BatchNorm1d(10))


def squared_hinge(outputs: tuple[Tensor, ...], targets: Any) -> Tensor:
    """The loss of BinaryConnect: one against all others, each with a margin of 1."""
    signs = 2.0 * F.one_hot(targets, 10) - 1
    return (1 - signs * outputs[0]).clamp(min=0).square().sum(1).mean()


def job_for(seed: int, *, quick: bool) -> Job:
    with np.load(shared("data/mnist.npz")) as file:
        arrays = dict(file)
    train = len(arrays["x_train"]) - VALIDATION
    pool = Arrays((arrays["x_train"],), arrays["y_train"].astype(np.int64), TO_UNIT)
    test = Arrays((arrays["x_test"],), arrays["y_test"].astype(np.int64), TO_UNIT)
    data = Data(
        Split("train", pool, np.arange(2_000 if quick else train)),
        Split("calibration", pool, np.arange(512)),
        Split("validation", pool, np.arange(train, train + VALIDATION)),
        Split("test", test, np.arange(len(arrays["x_test"]))),
        task="classify",
    )
    return Job(data=data, loss=squared_hinge, metric=default_metric(data), seed=seed)


def make_row(seed: int, hidden: int, epochs: int, *, quick: bool) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    job = job_for(seed, quick=quick)
    if not quick:
        folder = ROOT / "bench" / "cache" / f"binary-{hidden}-{epochs}-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        job = dataclasses.replace(job, checkpoints=folder)
    network = Network(mlp(hidden), (torch.zeros(2, 28, 28),))
    recipe = Recipe((
        QuantizeWeights(grid="binary", granularity="tensor"),
        Finetune(epochs=epochs, batch_size=200, learning_rate=3e-3, optimizer=Optimizer(name="Adam"), patience=epochs),
    ))  # fmt: skip
    # Casts are not kept: inside one long block torch would not see that the weights behind them change.
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        trained = recipe.apply(network, job)
    signs = {name: edits.value(trained.module, name).unique().numel() for name in edits.selected(trained.module)}
    return {
        "validation_error": round(100 * (1 - measure(trained.outputs, job.data.validation, job.metric).value), 3),
        "test_error": round(100 * (1 - measure(trained.outputs, job.data.test, job.metric).value), 3),
        "values_per_matrix": max(signs.values()),
        "archive_bytes": len(encode(edits.tensors(trained.module), effort="fast")),
        "recipe": recipe.in_words(),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The mean test error, once every seed is there."""
    errors = {row["seed"]: row["test_error"] for row in rows}
    whole = [errors[seed] for seed in SEEDS if seed in errors]
    return {
        "mnist_error": round(statistics.mean(whole), 3) if len(whole) == len(SEEDS) else None,
        "mnist_error_spread": round(max(whole) - min(whole), 3) if len(whole) == len(SEEDS) else None,
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    bench = Bench("binary", figures, quick=options.quick)
    hidden, epochs = (64, 2) if options.quick else (HIDDEN, EPOCHS)
    for seed in options.seeds[:1] if options.quick else options.seeds:
        key = {"network": f"784-{hidden}x3-10", "epochs": epochs, "seed": seed}
        bench.row(key, functools.partial(make_row, seed, hidden, epochs, quick=options.quick))
    print(bench.save())


if __name__ == "__main__":
    main()
