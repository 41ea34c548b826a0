"""EfficientNet-lite0 against the file, taught by the original on 300 photos without labels, beside NNCodec at equal agreement.

Of the 500 photos, those whose number is 0, 1 or 2 modulo 5 train, flipped and shifted at random, those with 3 validate and
those with 4 report. NNCodec (dependent quantization) codes weights and biases of the network whose normalisations are folded;
lissom trains the normalisations and stores them, too. NNCodec's file beside lissom's is its smallest whose agreement with the
original on the validation photos is at least lissom's.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness import ROOT
from lissom import edits
from lissom.codec import encode
from lissom.data import Arrays, Data, Split
from lissom.deploy.fold import fold_batch_norm
from lissom.job import Job
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network
from lissom.train.distill import Distill
from lissom.train.finetune import Finetune, Optimizer
from lissom.train.losses import default_loss
from lissom.train.rate import Rate
from quantization import lite0

__all__ = ["QPS", "SIZES", "by_lissom", "by_nncodec"]

QPS = (-32, -29, -26, -23, -20, -18, -16)
SIZES = {1_400_000: 6}
"""Bytes to arrive at, and epochs."""

NNCODEC = os.environ.get("NNCODEC", sys.executable)
MOST = 12  # pixels of a shift


class Shifted:
    """Photos [N, 3, 224, 224], flipped and shifted anew each time they are fetched."""

    def __init__(self, photos: npt.NDArray[np.float32], seed: int) -> None:
        self.photos, self.random = photos, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.photos)

    def fetch(self, numbers: Any) -> Any:
        """These photos, each changed anew."""
        photos = np.pad(self.photos[np.asarray(numbers)], ((0, 0), (0, 0), (MOST, MOST), (MOST, MOST)), mode="reflect")
        moved = np.empty((len(photos), *self.photos.shape[1:]), np.float32)
        for number, (top, left, flip) in enumerate(self.random.integers(0, (2 * MOST + 1, 2 * MOST + 1, 2), (len(photos), 3))):
            photo = photos[number, :, top : top + 224, left : left + 224]
            moved[number] = photo[:, :, ::-1] if flip else photo
        return (torch.from_numpy(moved),), None


def job_of(network: Network, seed: int) -> Job:
    """Distillation from ``network`` on photos without labels; agreement with it is the metric."""
    (photos,) = lite0()[1]
    plain, numbers = Arrays((photos,)), np.arange(len(photos))
    train = numbers[numbers % 5 < 3]
    data = Data(
        train=Split("train", Shifted(photos, seed), train),
        calibration=Split("calibration", plain, train),
        validation=Split("validation", plain, numbers[numbers % 5 == 3]),
        test=Split("test", plain, numbers[numbers % 5 == 4]),
        task="classify",
    )
    return Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, seed=seed)


def agreements(network: Network, job: Job) -> dict[str, float]:
    """The share of photos on which it says what the original says."""
    assert job.teacher is not None
    outputs = job.teacher.outputs
    return {
        f"{split.name}_agreement": round(float(measure(network.outputs, split, job.metric, original=outputs).value), 4)
        for split in (job.data.validation, job.data.test)
    }


def by_lissom(size: int, seed: int, checkpoints: Path) -> dict[str, Any]:
    """Training against the file to ``size`` bytes."""
    network = lite0()[0]
    job = dataclasses.replace(job_of(network, seed), checkpoints=checkpoints)
    train = Finetune(
        epochs=SIZES[size],
        batch_size=20,
        learning_rate=2e-4,
        optimizer=Optimizer(warmup=0.1),
        distill=Distill(temperature=2.0),
        rate=Rate(weight=0.001, max_size=size, warmup=0.1, resolution=8.0),
    )
    for part in (network, start := dataclasses.replace(network, module=copy.deepcopy(network.module))):
        part.module.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        small = train.apply(start, job)
    coded = encode(edits.tensors(small.module), effort="best")
    return {"bytes": len(coded), "trained": small.notes[-1], **agreements(small, job)}


def by_nncodec(qp: int) -> dict[str, Any]:
    """NNCodec on the weights and biases of the folded network."""
    network = lite0()[0]
    module = copy.deepcopy(network.module)
    fold_batch_norm(module, network.example_inputs)
    state = {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/source.npz", **{name: tensor.numpy() for name, tensor in state.items()})
        script = [NNCODEC, str(ROOT / "bench" / "nncodec_peer.py"), f"{folder}/source.npz", f"{folder}/out.npz"]
        subprocess.run([*script, "--qp", str(qp), "--dependent"], check=True, capture_output=True)
        with np.load(f"{folder}/out.npz") as found:
            decoded = {name: torch.from_numpy(found[f"tensor/{name}"].reshape(state[name].shape)) for name in state}
            size = int(found["bytes"])
    module.load_state_dict(decoded, strict=False)
    return {"bytes": size, **agreements(dataclasses.replace(network, module=module), job_of(network, 0))}
