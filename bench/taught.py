"""Digits with soft labels: shifted images, and what a teacher says of each, asked once for every shift."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lissom.network import Network, Preprocess

__all__ = ["SHIFTS", "Taught", "ask", "taught_loss"]

TO_UNIT = Preprocess(scale=1 / 255)
SHIFTS = 9  # up to one pixel in both directions
BATCH = 500
TEMPERATURE = 2.0
SHARE = 0.9  # of the loss that is the teacher's, and not the label's


def shifted(padded: npt.NDArray[np.uint8], numbers: npt.NDArray[np.int64], which: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Images ``numbers``, each under its shift of nine; ``padded`` has a border of one pixel."""
    side = padded.shape[1] - 2
    rows, columns = (which // 3)[:, None] + np.arange(side), (which % 3)[:, None] + np.arange(side)
    return padded[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]


def ask(teachers: Sequence[Network], images: npt.NDArray[np.uint8], file: Path | None) -> npt.NDArray[np.float16]:
    """The teachers' mean logits, [9, N, 10], for every shift of every image; kept in ``file``."""
    if file is not None and file.exists():
        return np.load(file)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    said = np.empty((SHIFTS, len(images), 10), np.float16)
    for which in range(SHIFTS):
        for start in range(0, len(images), BATCH):
            numbers = np.arange(start, min(start + BATCH, len(images)))
            pixels = torch.from_numpy(TO_UNIT(shifted(padded, numbers, np.full(len(numbers), which))))
            logits = [teacher.outputs(pixels)[0] for teacher in teachers]
            said[which, numbers] = torch.stack(logits).mean(0).numpy()
    if file is not None:
        file.parent.mkdir(exist_ok=True)
        np.save(file, said)
    return said


class Taught:
    """Images [N, 28, 28], shifted anew each time; the target is the teacher's logits and, last, the label: [11]."""

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], said: npt.NDArray[np.float16], seed: int):
        self.padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        self.labels, self.said = labels.astype(np.float32), said
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.padded)

    def fetch(self, numbers: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
        chosen = np.asarray(numbers, np.int64)
        which = self.random.integers(0, SHIFTS, len(chosen))
        target = np.concatenate([self.said[which, chosen].astype(np.float32), self.labels[chosen, None]], 1)
        return (torch.from_numpy(TO_UNIT(shifted(self.padded, chosen, which))),), torch.from_numpy(target)


def taught_loss(outputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Distillation of the logits that stand in the target, mixed with cross-entropy of the label beside them."""
    logits, said, labels = outputs[0], targets[:, :-1], targets[:, -1].long()
    soft, wanted = (F.log_softmax(each / TEMPERATURE, 1) for each in (logits, said))
    taught = F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
    return SHARE * taught + (1 - SHARE) * F.cross_entropy(logits, labels)
