"""Records to render: the least that a run can give, and one with everything."""

from __future__ import annotations

import numpy as np
import pytest

from lissom.report.record import (
    BeforeAfter,
    Bytes,
    Latency,
    Layer,
    Limit,
    MetricFigures,
    Parity,
    Percentiles,
    Record,
    Trial,
    histograms,
)


def minimal_record(**changes) -> Record:
    """A run with a recipe of one's own: no search, no limits, nothing timed."""
    fields = {
        "model": "model.onnx",
        "metric": MetricFigures(name="accuracy", unit="share", split="test", n=1, before=1.0, after=1.0, drop=0.0),
        "bytes": Bytes(source=1000, archive=400),
        "parameters": BeforeAfter(before=250, after=250),
        "goal": "size",
        "ship": "archive",
        "recipe": {"version": 1, "steps": [], "deploy": {}},
        "machine": {},
        "versions": {},
        "seed": 0,
        "seconds": 1.5,
    }
    return Record(**(fields | changes))


LAYERS = (
    ("stem.conv", "Conv2d", (16, 3, 3, 3), 442_368),
    ("stages.0.blocks.0.conv1", "Conv2d", (16, 16, 3, 3), 2_359_296),
    ("stages.0.blocks.0.conv2", "Conv2d", (16, 16, 3, 3), 2_359_296),
    ("stages.1.blocks.0.conv1", "Conv2d", (32, 16, 3, 3), 1_179_648),
    ("stages.1.blocks.0.conv2", "Conv2d", (32, 32, 3, 3), 2_359_296),
    ("stages.1.blocks.0.shortcut", "Conv2d", (32, 16, 1, 1), 131_072),
    ("stages.2.blocks.0.conv1", "Conv2d", (64, 32, 3, 3), 1_179_648),
    ("stages.2.blocks.0.conv2", "Conv2d", (64, 64, 3, 3), 2_359_296),
    ("head", "Linear", (10, 64), 640),
)


def layer_records(random: np.random.Generator) -> tuple[Layer, ...]:
    """Layers whose weights were pruned and put on a coarse grid."""
    made = []
    for number, (name, kind, shape, macs) in enumerate(LAYERS):
        weights = random.standard_normal(shape) * 0.3 / np.sqrt(np.prod(shape[1:]))
        step = np.abs(weights).max() / 12
        kept = np.abs(weights) > np.quantile(np.abs(weights), 0.35 + 0.06 * number)
        after = np.round(weights / step) * step * kept
        before_histogram, after_histogram = histograms(weights, after)
        size = int(weights.size)
        made.append(
            Layer(
                name=name,
                kind=kind,
                shape=shape,
                parameters=BeforeAfter(before=size, after=size),
                bytes_before=4 * size,
                bytes_after=int(size * 4 * 0.03) + 20,
                sparsity=float((after == 0).mean()),
                bits=1.4 + 0.2 * (number % 4),
                macs=BeforeAfter(before=macs, after=macs // 2),
                ms_before=macs / 4e6,
                ms_after=macs / 9e6,
                histogram_before=before_histogram,
                histogram_after=after_histogram,
            )
        )
    return tuple(made)


def trial_records(random: np.random.Generator) -> tuple[Trial, ...]:
    """A search that closes in on the limit, with failures of each kind on the way."""
    made = []
    for number in range(18):
        depth = float(random.uniform(0.1, 1.0)) if number < 12 else 0.72 + 0.02 * float(random.standard_normal())
        drop = float(0.028 * depth**4 + 0.0012 * random.standard_normal())
        made.append(
            Trial(
                name=f"t{number:02d}",
                recipe=f"PruneWeights(sparsity={0.5 + depth * 0.45:.2f}) · ShareWeights(bits={int(6 - 3 * depth)}) · Finetune",
                metric=0.9132 - drop,
                drop=drop,
                bytes=int(1_118_620 * 0.9 ** (depth * 46)),
                latency_ms=1.9 - depth * 1.2 + float(random.uniform(-0.05, 0.05)),
                seconds=41.0 + 3 * number,
                refused_because="lost 1.31 points, more than the 1.00 allowed" if drop > 0.01 else "",
            )
        )
    best = min((trial for trial in made if not trial.refused_because), key=lambda trial: trial.bytes)
    kept = [Trial(**(vars(trial) | {"kept": trial is best})) for trial in made]
    ruined = Trial(
        name="t18",
        recipe="QuantizeWeights(bits=2)",
        metric=0.1,
        drop=0.8132,
        bytes=19_000,
        latency_ms=1.1,
        seconds=12.0,
        refused_because="lost 81.32 points, more than the 1.00 allowed",
    )
    failed = Trial(
        name="t19",
        recipe="Deploy(activations='int8')",
        seconds=6.5,
        refused_because="the int8 file was 1.31× slower than float32 on this CPU",
    )
    return (*kept, ruined, failed)


def full_record(**changes) -> Record:
    """A run with everything in it."""
    random = np.random.default_rng(0)
    percentiles = {"before_ms": Percentiles(p10=1.91, p50=1.98), "after_ms": Percentiles(p10=0.874, p50=0.902)}
    cpu = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    recipe = {
        "version": 1,
        "steps": [
            {"PruneWeights": {"sparsity": 0.85, "importance": "taylor", "layers": ["*.conv*"]}},
            {"Finetune": {"epochs": 4, "rate": 0.002, "distill": True}},
            {"ShareWeights": {"bits": 4, "start": "density"}},
        ],
        "deploy": {"target": "onnxruntime-cpu", "activations": "int8"},
    }
    fields = {
        "model": "examples.resnet:resnet20",
        "command": "lissom compress examples.resnet:resnet20 --weights resnet20.safetensors --data cifar10.npz --max-drop 1%",
        "metric": MetricFigures(
            name="accuracy",
            unit="share",
            split="test",
            n=10_000,
            before=0.9126,
            after=0.9079,
            drop=0.0047,
            standard_error=0.0017,
        ),
        "bytes": Bytes(source=1_118_620, onnx=312_400, archive=38_911, weights_only=35_204),
        "ratio": 30.6,
        "parameters": BeforeAfter(before=272_474, after=198_000),
        "macs": BeforeAfter(before=40_551_552, after=21_300_000),
        "latency": (
            Latency(runtime="onnxruntime", threads=1, batch=1, ratio=2.185, runs=400, cpu=cpu, **percentiles),
            Latency(runtime="openvino", threads=1, batch=1, ratio=2.185, runs=400, cpu=cpu, stable=False, **percentiles),
        ),
        "parity": (
            Parity(runtime="onnxruntime", kind="float", max_relative=3.1e-6, cosine=0.9999999, agreement=1.0, n=64),
            Parity(runtime="onnxruntime", kind="integer", cosine=0.99981, agreement=0.996, n=64),
        ),
        "limits": (
            Limit(name="max_drop", limit=0.01, measured=0.0047, met=True),
            Limit(name="max_size", limit=40_000, measured=38_911, met=True),
            Limit(name="max_latency", limit=0.8, measured=0.874, met=False),
        ),
        "goal": "size",
        "ship": "archive",
        "recipe": recipe,
        "trials": trial_records(random),
        "layers": layer_records(random),
        "notes": (
            "stem.conv was left in float32: at 4 bits it alone lost 2.1 points.",
            "The group of head is not prunable: its outputs are the network's outputs.",
            "int8 activations were refused: the file was slower on this CPU, which has no VNNI.",
        ),
        "machine": {"cpu": cpu, "cores": 2, "instruction_sets": ["AVX2", "AVX-512", "VNNI"], "memory_bytes": 16_000_000_000},
        "versions": {"lissom": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        "seed": 7,
        "seconds": 1234.5,
    }
    return Record(**(fields | changes))


@pytest.fixture
def minimal() -> Record:
    """The least that a run can give."""
    return minimal_record()


@pytest.fixture
def full() -> Record:
    """A run with everything in it."""
    return full_record()
