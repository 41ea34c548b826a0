"""[structured] and [light] on larger networks: EfficientNet-lite0 and MiniLM made lighter, no label seen.

    python bench/distilled.py            # an hour on one core; a stopped run goes on where it was
    python bench/distilled.py --timed    # the latencies of what was trained: on a quiet machine, a minute
    python bench/distilled.py --quick    # a few samples: shows that the bench works

Three ways: channels to 30 % fewer multiply-accumulates; channels to a latency 1.3 times lower; and what the exact choice among
lighter parts (factors, lighter blocks, narrower pairs of layers) makes of the same latency. Each starts from the trained
network, is refitted to its answers on calibration inputs, and then trained to imitate them, all by the same step. Photos of 500
ImageNet classes, split by the number of the class modulo 5, and sentences of STS-B: some train and calibrate, others report.
Agreement with the original is the share of equal first classes, and the mean cosine of embeddings. Latencies are those of float
files. LAB names the folder that the two packages were unpacked to, as networks/README says.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
from lissom.search.library import Library
from lissom.search.variants import variants
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss

KEPT = 0.7
MULTIPLE = 8
"""Widths are multiples of this: kernels are slow on others."""

SHIFT = 16
"""Pixels that a photo is moved by, at most."""

FASTER = 1.3

SAMPLES = {"efficientnet_lite0": 300, "minilm": 256}
"""That channels are ranked, and what is left refitted, by."""

LIBRARY_SAMPLES = {"efficientnet_lite0": 96, "minilm": 256}
"""That lighter parts are fitted on; there are over a hundred."""

ADAM = Optimizer(warmup=0.1)
TRAINING = {
    "efficientnet_lite0": Finetune(
        epochs=4, batch_size=25, learning_rate=2e-5, optimizer=ADAM, distill=Distill(temperature=4.0), patience=2
    ),
    "minilm": Finetune(epochs=2, batch_size=32, learning_rate=2e-4, optimizer=ADAM, distill=Distill(), patience=2),
}


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


def by_channels(network: Network, job: Job, samples: int, **target: float) -> tuple[Network, list[str]]:
    """Whole channels go, the least important first."""
    made = PruneChannels(multiple=MULTIPLE, samples=samples, measured=True, ridge=None, **target).apply(network, job)
    return made, list(made.notes)


def by_lighter_parts(network: Network, job: Job, samples: int) -> tuple[Network, list[str]]:
    """What the exact choice makes, and why."""
    found = tuple(variants(network, job, samples, ratios=(0.25, 0.5), least=0.02))
    choice = Library(network, job, found, samples=samples, timed=True).best("latency", 1 / FASTER)
    return choice.recipe.apply(network, job), list(choice.reasons)


WAYS: dict[str, Callable[[Network, Job, int], tuple[Network, list[str]]]] = {
    "fewer MACs": functools.partial(by_channels, macs=KEPT),
    "faster by channels": functools.partial(by_channels, latency=1 / FASTER),
    "faster by lighter parts": by_lighter_parts,
}


def make_row(name: str, way: str, seed: int, *, quick: bool) -> dict[str, Any]:
    """Make it lighter, report; train, report; keep both files to be timed."""
    network, job = NETWORKS[name](seed)
    job = few(job) if quick else dataclasses.replace(job, checkpoints=kept_file(name, way, seed).parent)
    lighter, notes = WAYS[way](network, job, (LIBRARY_SAMPLES if "parts" in way else SAMPLES)[name])
    row: dict[str, Any] = {"macs_kept": round(capture(lighter).macs / capture(network).macs, 4), "notes": notes}
    row["parameters_kept"] = round(_parameters(lighter) / _parameters(network), 4)
    row["untrained_validation_agreement"] = agreement(lighter, network, job.data.validation, job)
    trained = TRAINING[name].apply(lighter, job)
    row["validation_agreement"] = agreement(trained, network, job.data.validation, job)
    row["test_agreement"] = agreement(trained, network, job.data.test, job)
    for made, file in ((network, kept_file(name, "original", seed)), (trained, kept_file(name, way, seed))):
        file.parent.mkdir(parents=True, exist_ok=True)
        deploy(made).save(file)
        row["bytes_before" if made is network else "bytes"] = file.stat().st_size
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


def kept_file(name: str, way: str, seed: int) -> Path:
    """Where a float ONNX file stands, beside what a stopped row goes on from."""
    return Path(ROOT / "bench" / "cache" / "distilled" / f"{name}-{way.replace(' ', '-')}-{seed}" / "float.onnx")


def time_row(name: str, way: str, seed: int) -> dict[str, Any]:
    """Latency before over after: ONNX Runtime, one thread, one sample."""
    network, _ = NETWORKS[name](seed)
    inputs = [tensor[:1].numpy() for tensor in network.example_inputs]
    timing = compare(kept_file(name, "original", seed), kept_file(name, way, seed), inputs)
    found = {"speedup": timing.ratio, "before_ms": timing.before.p10 * 1e3, "after_ms": timing.after.p10 * 1e3}
    return {key: round(value, 3) for key, value in found.items()} | {"stable": timing.stable, "calls": timing.calls}


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Of each network and way: agreement on samples that trained nothing, and how many times faster it is."""
    names = {"agreement": "test_agreement", "speedup": "speedup"}
    return {
        f"{name} {way}: {figure}": next(
            (row[key] for row in rows if (row["network"], row["way"]) == (name, way) and key in row), None
        )
        for name in NETWORKS
        for way in WAYS
        for figure, key in names.items()
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--timed", action="store_true", help="only the latencies of what was trained before")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench("distilled", figures, quick=options.quick)
    for name, way in itertools.product(options.networks, options.ways):
        key = {"network": name, "way": way, "seed": 0}
        if not options.timed:
            bench.row(key | {"trained": True}, functools.partial(make_row, name, way, 0, quick=options.quick))
        elif kept_file(name, way, 0).exists():
            bench.row(key | {"timed": True}, functools.partial(time_row, name, way, 0))
    print(bench.save())


if __name__ == "__main__":
    main()
