"""Splits: train, calibration, validation, test. What decides never reports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lissom.data.samples import Batch, Samples
from lissom.errors import DataRefused

__all__ = ["CALIBRATION_SAMPLES", "FEWEST_SAMPLES", "Data", "Split", "TaskName"]

CALIBRATION_SAMPLES = 512
FEWEST_SAMPLES = 5

TaskName = Literal["classify", "regress", "imitate"]


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the samples: what one purpose may see.

    Args:
        name: ``"train"``, ``"calibration"``, ``"validation"`` or ``"test"``.
        samples: Where they come from.
        numbers: Which of them, int64.
    """

    name: str
    samples: Samples
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(self, size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """All samples once, ``size`` at a time; in order, or shuffled by ``seed``.

        >>> from lissom.data import Arrays
        >>> split = Data.of(Arrays((np.arange(10.0),)), seed=0).test
        >>> sum(len(inputs[0]) for inputs, _ in split.batches(3)) == len(split)
        True
        """
        order = self.numbers if seed is None else np.random.default_rng(seed).permutation(self.numbers)
        for start in range(0, len(order), size):
            yield self.samples.fetch(order[start : start + size].tolist())

    def first(self, count: int) -> Batch:
        """The first ``count`` samples (fewer where there are fewer)."""
        return self.samples.fetch(self.numbers[:count].tolist())


@dataclass(frozen=True, eq=False)
class Data:
    """Samples in four splits. Training sees ``train``, ranges and statistics come from ``calibration``, decisions from
    ``validation``; ``test`` only ever reports.

    Args:
        train: Weights are fitted on it.
        calibration: Up to 512 samples of the training split.
        validation: Every choice is made on it.
        test: Every reported figure comes from it.
        task: ``"classify"`` (integer labels or as the user says), ``"regress"`` (floating targets) or ``"imitate"``
            (no labels: the original network's outputs are the target).
    """

    train: Split
    calibration: Split
    validation: Split
    test: Split
    task: TaskName = "imitate"

    @classmethod
    def of(cls, samples: Samples, *, seed: int = 0, test: Samples | None = None, validation: Samples | None = None) -> Data:
        """Split samples at random: 60 % train, 20 % validation, 20 % test, or around the splits that are given.

        Beside a given test split, a tenth of ``samples`` is set apart for validation.

        Raises:
            DataRefused: there are fewer than five samples, or a given split is empty.
        """
        if len(samples) < FEWEST_SAMPLES:
            raise DataRefused(
                f"{len(samples)} samples: at least {FEWEST_SAMPLES} are needed to train, decide and report on different ones"
            )
        order = np.random.default_rng(seed).permutation(len(samples))
        share = max(1, len(samples) // (5 if test is None else 10))
        parts: dict[str, Split] = {}
        for name, given in (("test", test), ("validation", validation)):
            if given is not None:
                if len(given) == 0:
                    raise DataRefused(f"the {name} split is empty: give at least one sample")
                parts[name] = Split(name, given, np.arange(len(given)))
            else:
                parts[name], order = Split(name, samples, np.sort(order[:share])), order[share:]
        train = Split("train", samples, np.sort(order))
        calibration = Split("calibration", samples, np.sort(order[:CALIBRATION_SAMPLES]))
        return cls(train=train, calibration=calibration, task=_task(train.first(1)[1]), **parts)

    @property
    def labelled(self) -> bool:
        """Whether there are targets."""
        return self.train.first(1)[1] is not None

    def splits(self) -> tuple[Split, Split, Split, Split]:
        """Train, calibration, validation and test, in this order."""
        return self.train, self.calibration, self.validation, self.test


def _task(targets: Tensor | None) -> TaskName:
    if targets is None:
        return "imitate"
    return "regress" if targets.is_floating_point() else "classify"
