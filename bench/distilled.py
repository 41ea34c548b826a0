"""[structured], beside ResNet-20: EfficientNet-lite0 and MiniLM with 30 % fewer multiply-accumulates, no label seen.

    python bench/distilled.py            # twenty minutes on one core
    python bench/distilled.py --timed    # the latencies of what was trained: on a quiet machine, a minute
    python bench/distilled.py --quick    # a few samples: shows that the bench works

Channels go by their importance for the network's own answers, what is left is refitted to them, and then trained to imitate
them (PruneChannels, Finetune). Photos of 500 ImageNet classes, split by the number of the class modulo 5, and sentences of
STS-B: some train and calibrate, others report. Agreement with the original is the share of equal first classes, and the mean
cosine of embeddings. LAB names the folder that the two packages were unpacked to, as networks/README says.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import ROOT, Bench, arguments, shared
from light import minilm
from lissom.data import Arrays, Data, Split
from lissom.deploy import deploy
from lissom.graph.capture import capture
from lissom.job import Job
from lissom.measure.latency import compare
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network
from lissom.prune.channels import PruneChannels
from lissom.recipe import Recipe
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss

KEPT = 0.7
MULTIPLE = 8
"""Widths are multiples of this: kernels are slow on others."""

SHIFT = 16
"""Pixels that a photo is moved by, at most."""

ADAM = Optimizer(warmup=0.1)
RECIPES = {
    "efficientnet_lite0": Recipe((
        PruneChannels(macs=KEPT, multiple=MULTIPLE, samples=96),
        Finetune(epochs=6, batch_size=25, learning_rate=3e-4, optimizer=ADAM, distill=Distill(temperature=1.0)),
    )),
    "minilm": Recipe((
        PruneChannels(macs=KEPT, multiple=MULTIPLE, samples=256),
        Finetune(epochs=2, batch_size=32, learning_rate=2e-4, optimizer=ADAM, distill=Distill()),
    )),
}  # fmt: skip


class Moved:
    """Photos [N, 3, H, W], mirrored and moved by a few pixels at random each time they are fetched."""

    def __init__(self, plain: Arrays, seed: int) -> None:
        self.plain, self.random = plain, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.plain)

    def fetch(self, numbers: Any) -> Any:
        """These photos, each changed anew."""
        (photos,), _ = self.plain.fetch(numbers)
        moves = self.random.integers((-SHIFT, -SHIFT, 0), (SHIFT + 1, SHIFT + 1, 2), (len(photos), 3)).tolist()
        moved = [
            torch.roll(photo.flip(-1) if mirror else photo, (down, right), (1, 2))
            for photo, (down, right, mirror) in zip(photos, moves, strict=True)
        ]
        return (torch.stack(moved),), None


def lite0(seed: int) -> tuple[Network, Job]:
    """The classifier and its photos: of class numbers that leave 0, 1 or 2 train, 3 validates, 4 reports."""
    if "LAB" not in os.environ:
        print("skipped: LAB is not set: run networks/efficientnet_lite0/get.sh")
        sys.exit(0)
    sys.path.insert(0, str(shared("networks")))
    import probelib

    probe = probelib.load(str(shared("networks/efficientnet_lite0")))
    pixels, classes = probe.data()
    rest = classes // 2 % 5  # every second class has a photo
    plain = Arrays((pixels,), None)
    data = Data(
        train=Split("train", Moved(plain, seed), np.flatnonzero(rest < 3)),
        calibration=Split("calibration", plain, np.flatnonzero(rest < 3)),
        validation=Split("validation", plain, np.flatnonzero(rest == 3)),
        test=Split("test", plain, np.flatnonzero(rest == 4)),
        task="classify",
    )
    network = Network(probe.model(), (torch.from_numpy(pixels[:2]),))
    return network, Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, seed=seed)


NETWORKS: dict[str, Callable[[int], tuple[Network, Job]]] = {"efficientnet_lite0": lite0, "minilm": minilm}


def make_row(name: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Prune, report; train, report; keep both files to be timed."""
    network, job = NETWORKS[name](seed)
    prune, train = RECIPES[name].steps
    if quick:
        job = few(job)
    pruned = prune.apply(network, job)
    row: dict[str, Any] = {"macs_kept": round(capture(pruned).macs / capture(network).macs, 4), "notes": list(pruned.notes)}
    row["parameters_kept"] = round(_parameters(pruned) / _parameters(network), 4)
    row["untrained_validation_agreement"] = agreement(pruned, network, job.data.validation, job)
    trained = train.apply(pruned, job)
    row["validation_agreement"] = agreement(trained, network, job.data.validation, job)
    row["test_agreement"] = agreement(trained, network, job.data.test, job)
    for made, when in ((network, "before"), (trained, "after")):
        deploy(made).save(kept_file(name, seed, when))
    return row


def few(job: Job) -> Job:
    """The job with 40 samples in every split."""
    splits = {part.name: dataclasses.replace(part, numbers=part.numbers[:40]) for part in job.data.splits()}
    return dataclasses.replace(job, data=dataclasses.replace(job.data, **splits))


def agreement(made: Network, original: Network, split: Split, job: Job) -> float:
    """With the original's outputs."""
    return float(measure(made.outputs, split, job.metric, original=original.outputs, batch_size=50).value)


def _parameters(network: Network) -> int:
    return sum(each.numel() for each in network.module.parameters())


def kept_file(name: str, seed: int, when: str) -> Path:
    """Where a float ONNX file of a row stands."""
    return Path(ROOT / "bench" / "cache" / "distilled" / f"{name}-{seed}-{when}.onnx")


def time_row(name: str, seed: int) -> dict[str, Any]:
    """Latency before over after: ONNX Runtime, one thread, one sample."""
    network, _ = NETWORKS[name](seed)
    inputs = [tensor[:1].numpy() for tensor in network.example_inputs]
    timing = compare(kept_file(name, seed, "before"), kept_file(name, seed, "after"), inputs)
    found = {"speedup": timing.ratio, "before_ms": timing.before.p10 * 1e3, "after_ms": timing.after.p10 * 1e3}
    return {key: round(value, 3) for key, value in found.items()} | {"stable": timing.stable, "calls": timing.calls}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Of each network: agreement on samples that trained nothing, and how many times faster it is."""
    names = {"agreement": "test_agreement", "speedup": "speedup"}
    return {
        f"{name}_{figure}": next((row[key] for row in rows if row["network"] == name and key in row), None)
        for name in NETWORKS
        for figure, key in names.items()
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--timed", action="store_true", help="only the latencies of what was trained before")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("distilled", figures, quick=options.quick)
    for name in options.networks:
        if not options.timed:
            key = {"network": name, "seed": 0, "trained": True}
            bench.row(key, functools.partial(make_row, name, 0, quick=options.quick))
        elif kept_file(name, 0, "after").exists():
            bench.row({"network": name, "seed": 0, "timed": True}, functools.partial(time_row, name, 0))
    print(bench.save())


if __name__ == "__main__":
    main()
