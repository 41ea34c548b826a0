"""Checks: data is fitted to a network, and refused at once, in one sentence, where it would fail or mislead later."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.data.images import Images
from lissom.data.samples import Arrays, Batch, Samples
from lissom.data.splits import Data, Split, TaskName
from lissom.errors import DataRefused
from lissom.network import Network

__all__ = ["Fitted", "Needs", "fit"]


@dataclass(frozen=True)
class Needs:
    """What a network takes and gives, as far as its data must agree with it.

    Args:
        names: The inputs' names.
        dtypes: Their dtypes.
        shapes: Their shapes without the batch; None for a length that may differ.
        task: What the targets are for.
        output: The shape of the first output without the batch; None where the targets are the user's own business.
    """

    names: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    task: TaskName
    output: tuple[int, ...] | None

    @classmethod
    def of(cls, network: Network, task: TaskName, *, check_targets: bool = True) -> Needs:
        """The needs of ``network``."""
        shapes = []
        for name, example in zip(network.input_names, network.example_inputs, strict=True):
            dynamic = network.dynamic_axes.get(name, {})
            shapes.append(tuple(None if axis in dynamic else example.shape[axis] for axis in range(1, example.ndim)))
        dtypes = tuple(example.dtype for example in network.example_inputs)
        supervised = check_targets and task != "imitate"
        output = tuple(network.outputs(*network.example_inputs)[0].shape[1:]) if supervised else None
        return cls(network.input_names, dtypes, tuple(shapes), task, output)

    def fit(self, batch: Batch, where: str) -> Batch:
        """The batch with the network's dtypes, or refused: shape, kind of number, NaN, labels out of range."""
        inputs, targets = batch
        if len(inputs) != len(self.names):
            raise DataRefused(f"{len(inputs)} inputs {where}; the network takes {len(self.names)}: {', '.join(self.names)}")
        fitted = tuple(
            _fit_input(name, tensor, dtype, shape, where)
            for name, tensor, dtype, shape in zip(self.names, inputs, self.dtypes, self.shapes, strict=True)
        )
        if targets is None or self.task == "imitate":
            return fitted, None
        return fitted, targets if self.output is None else self._fit_targets(targets, where)

    def _fit_targets(self, targets: Tensor, where: str) -> Tensor:
        assert self.output is not None
        if self.task == "regress":
            if targets[0].numel() != int(np.prod(self.output)):
                raise DataRefused(
                    f"targets of shape {list(targets.shape[1:])} per sample {where}; the network's output has "
                    f"{list(self.output)}: give one target for each output"
                )
            _refuse_not_finite("the targets", targets, where)
            return targets.float()
        return _fit_labels(targets, self.output, where)


def _fit_input(name: str, given: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...], where: str) -> Tensor:
    if given.dtype.is_floating_point != dtype.is_floating_point:
        kind = str(dtype).removeprefix("torch.")
        if dtype.is_floating_point:
            raise DataRefused(
                f"{name} holds whole numbers {where}; the network takes {kind}: uint8 images need a preprocess "
                "(--preprocess imagenet|unit|FILE), other data must be floats"
            )
        raise DataRefused(f"{name} holds floats {where}; the network takes {kind}: give whole numbers")
    own = tuple(given.shape[1:])
    if len(own) != len(shape) or any(want not in (None, have) for have, want in zip(own, shape, strict=True)):
        wanted = [length if length is not None else "any" for length in shape]
        raise DataRefused(
            f"{name} has shape {list(own)} per sample {where}; the network takes {wanted}: reshape the data, "
            "or crop it with a preprocess"
        )
    _refuse_not_finite(name, given, where)
    return given.to(dtype)


def _fit_labels(targets: Tensor, output: tuple[int, ...], where: str) -> Tensor:
    if targets.is_floating_point():
        raise DataRefused(f"floating targets {where} cannot be classes: give class numbers (y.argmax(1) if they are one-hot)")
    if not output:
        raise DataRefused(f"class numbers {where}, and the network gives one number: give floating targets to fit it to them")
    classes, wanted = output[0], output[1:]
    if targets.ndim == len(wanted) + 2 and targets.shape[-1] == 1:  # a column of labels, as Keras' data sets have them
        targets = targets.squeeze(-1)
    if targets.ndim != len(wanted) + 1:
        raise DataRefused(
            f"labels of shape {list(targets.shape[1:])} per sample {where}; outputs of shape {list(output)} need labels of shape "
            f"{list(wanted)}: give class numbers (y.argmax(1) if they are one-hot)"
        )
    _refuse_labels(targets.numpy(), classes, where)
    return targets.long()


def _refuse_labels(labels: npt.NDArray[Any], classes: int, where: str) -> None:
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        way_out = "number the classes from 0" if classes > 1 else "give floating targets to fit its one output to them"
        raise DataRefused(
            f"label {wrong} {where}; the network has {classes} {'class' if classes == 1 else 'classes'}, 0 to {classes - 1}: "
            f"{way_out}"
        )


def _refuse_not_finite(name: str, tensor: Tensor, where: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise DataRefused(f"{name} holds NaN or infinity {where}: remove those samples")


@dataclass(frozen=True, eq=False)
class Fitted:
    """Samples that are fitted to a network as they are fetched.

    Args:
        samples: Where they come from.
        needs: What the network takes.
        where: How a refusal names the place: ``"in the test split"``.
    """

    samples: Samples
    needs: Needs
    where: str

    def __len__(self) -> int:
        return len(self.samples)

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """These samples as the network takes them."""
        return self.needs.fit(self.samples.fetch(numbers), self.where)


def fit(data: Data, network: Network, *, check_targets: bool = True) -> Data:
    """The data with every batch fitted to the network; what can be seen to be wrong already is refused now.

    Args:
        data: The data; it may have been fitted to another network before.
        network: The network.
        check_targets: False where the user's own loss and metric read the targets.

    Raises:
        DataRefused: NaN, labels out of range, shapes or kinds of number that do not fit.
    """
    needs = Needs.of(network, data.task, check_targets=check_targets)
    train, calibration, validation, test = (_fit_split(split, needs) for split in data.splits())
    fitted = dataclasses.replace(data, train=train, calibration=calibration, validation=validation, test=test)
    for split in (fitted.train, fitted.validation, fitted.test):
        split.first(2)
        _check_whole(split, needs)
    return fitted


def _fit_split(split: Split, needs: Needs) -> Split:
    samples = split.samples.samples if isinstance(split.samples, Fitted) else split.samples
    return dataclasses.replace(split, samples=Fitted(samples, needs, f"in the {split.name} split"))


def _check_whole(split: Split, needs: Needs) -> None:
    """Look through all of what lies in memory, so that a bad sample is found now and not after an hour."""
    assert isinstance(split.samples, Fitted)
    samples, where = split.samples.samples, split.samples.where
    targets = samples.targets if isinstance(samples, Arrays | Images) else None
    if isinstance(samples, Arrays):
        named = [*zip(needs.names, samples.inputs, strict=True)]
        for name, array in named if targets is None else [*named, ("the targets", targets)]:
            if np.issubdtype(array.dtype, np.floating):
                _refuse_not_finite(name, torch.from_numpy(array[split.numbers]), where)
    if targets is None or needs.task != "classify" or needs.output is None:
        return
    classes = needs.output[0]
    if isinstance(samples, Images) and samples.classes not in (None, classes):
        raise DataRefused(
            f"{samples.classes} folders of classes {where}; the network has {classes} classes: "
            f"name the folders by their class numbers, 0 to {classes - 1}"
        )
    _refuse_labels(targets[split.numbers], classes, where)
