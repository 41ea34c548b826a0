"""Data: samples with or without labels, in four splits; what decides never reports."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.errors import DataRefused, MissingExtra
from lissom.network import Network, Preprocess

__all__ = ["Arrays", "Batch", "Data", "Images", "Items", "Samples", "Split", "load_data"]

Batch = tuple[tuple[Tensor, ...], Tensor | None]
"""The inputs of some samples, and their targets (None where there are no labels)."""

CALIBRATION_SAMPLES = 512
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@runtime_checkable
class Samples(Protocol):
    """Samples that can be fetched by number, ready for the network."""

    def __len__(self) -> int:
        """How many samples there are."""

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The inputs of these samples, stacked, and their targets."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Samples held in arrays.

    Args:
        inputs: One array per input of the network, the sample first.
        targets: Integer labels or floating targets, the sample first; None where there are none.
        preprocess: Applied to uint8 inputs when they are fetched.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    targets: npt.NDArray[Any] | None = None
    preprocess: Preprocess | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The inputs of these samples, preprocessed, and their targets."""
        picked = tuple(_tensor(array[numbers], self.preprocess) for array in self.inputs)
        return picked, None if self.targets is None else _tensor(self.targets[numbers], None)


@dataclass(frozen=True, eq=False)
class Images:
    """Image files, decoded when they are fetched: a folder of folders, one for each class, or of unlabelled images."""

    files: tuple[Path, ...]
    labels: npt.NDArray[np.int64] | None
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The decoded, resized, cropped and scaled images, and their classes."""
        pixels = [_decode(self.files[number], self.preprocess) for number in numbers]
        shapes = {image.shape for image in pixels}
        if len(shapes) > 1:
            raise DataRefused(
                f"images of different sizes, {sorted(shapes)[:2]} …: give a preprocess with a crop, so that all have one size"
            )
        inputs = torch.from_numpy(self.preprocess(np.stack(pixels)))
        return (inputs,), None if self.labels is None else torch.from_numpy(self.labels[list(numbers)])


@dataclass(frozen=True, eq=False)
class Items:
    """A map-style ``torch`` Dataset whose items are inputs, or inputs followed by one target."""

    dataset: Any
    inputs: int
    collate: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """These items, collated."""
        return _as_batch(self.collate([self.dataset[int(number)] for number in numbers]), self.inputs)


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
    task: Literal["classify", "regress", "imitate"] = "imitate"

    @classmethod
    def of(cls, samples: Samples, *, seed: int = 0, test: Samples | None = None, validation: Samples | None = None) -> Data:
        """Split samples at random: 60 % train, 20 % validation, 20 % test, or around the splits that are given.

        Raises:
            DataRefused: there are fewer than five samples.
        """
        if len(samples) < 5:
            raise DataRefused(f"{len(samples)} samples: at least 5 are needed to train, decide and report on different ones")
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
        _, targets = train.first(2)
        return cls(train=train, calibration=calibration, task=_task(targets), **parts)

    @property
    def labelled(self) -> bool:
        """Whether there are targets."""
        return self.train.first(1)[1] is not None


def load_data(source: Any, network: Network, *, seed: int = 0, task: str | None = None) -> Data:
    """Any data that the doors take, split and checked against the network.

    Args:
        source: A ``.npz`` file, a folder of images, arrays or tensors (``x`` or ``(x, y)``), a mapping of arrays by
            name, a torch Dataset or DataLoader, or :class:`Data` itself.
        network: What the data is for; its input names, shapes and preprocess are used.
        seed: Decides which samples go where, if the data does not say.
        task: Overrides what the labels imply: ``"classify"`` makes agreement count equal top-1.

    Raises:
        DataRefused: empty, NaN, labels out of range, uint8 images without a preprocess, or shapes that do not fit.
    """
    data = source if isinstance(source, Data) else _open(source, network, seed)
    if task is not None:
        data = Data(data.train, data.calibration, data.validation, data.test, task)  # type: ignore[arg-type]
    _check(data, network)
    return data


def _open(source: Any, network: Network, seed: int) -> Data:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return Data.of(_image_folder(path, network.preprocess), seed=seed)
        return _from_mapping(_read_npz(path), network, seed)
    if isinstance(source, Mapping):
        return _from_mapping({name: _array(value) for name, value in source.items()}, network, seed)
    if isinstance(source, np.ndarray | Tensor):
        return _from_mapping({"x": _array(source)}, network, seed)
    if isinstance(source, tuple | list) and source and all(isinstance(part, np.ndarray | Tensor) for part in source):
        count = len(network.input_names)
        names = [*network.input_names, "y"] if len(source) == count + 1 else list(network.input_names)
        if len(source) > len(names):
            raise DataRefused(
                f"{len(source)} arrays for a network of {count} inputs: give the inputs, or the inputs and the labels"
            )
        return _from_mapping({name: _array(part) for name, part in zip(names, source, strict=False)}, network, seed)
    return Data.of(_items(source, network), seed=seed)


def _items(source: Any, network: Network) -> Samples:
    """A Dataset as it stands; a DataLoader as its dataset and collation; any other iterable of batches, gathered."""
    from torch.utils.data import DataLoader, IterableDataset, default_collate

    count = len(network.input_names)
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, IterableDataset):
        collate = source.collate_fn if isinstance(source, DataLoader) else default_collate
        return Items(dataset, count, collate)
    try:
        batches = [_as_batch(batch, count) for batch in source]
    except TypeError as error:
        raise DataRefused(
            f"data of type {type(source).__name__}: give arrays, a .npz file, a folder, a Dataset or a DataLoader"
        ) from error
    if not batches:
        raise DataRefused("the data yields no batch: give at least 5 samples")
    inputs = tuple(torch.cat([batch[0][index] for batch in batches]).numpy() for index in range(count))
    labelled = batches[0][1] is not None
    return Arrays(inputs, torch.cat([batch[1] for batch in batches if batch[1] is not None]).numpy() if labelled else None)


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.exists():
        raise DataRefused(f"no data file {path}: give a .npz file, or a folder of images")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise DataRefused(f"{path} holds one bare array: save it with  numpy.savez({str(path)!r}, x=inputs, y=labels)")
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataRefused(
            f"{path} is not a readable .npz file of plain arrays ({error}): write it again with numpy.savez"
        ) from error


def _from_mapping(arrays: dict[str, npt.NDArray[Any]], network: Network, seed: int) -> Data:
    """``x, y``, or ``x_train, y_train`` … with the splits as given, or arrays named after the network's inputs."""
    if "x_train" in arrays:
        splits = {part: _arrays(arrays, f"_{part}", network) for part in ("train", "val", "test") if f"x_{part}" in arrays}
        return Data.of(splits["train"], seed=seed, test=splits.get("test"), validation=splits.get("val"))
    return Data.of(_arrays(arrays, "", network), seed=seed)


def _arrays(arrays: Mapping[str, npt.NDArray[Any]], suffix: str, network: Network) -> Arrays:
    names = [f"x{suffix}"] if f"x{suffix}" in arrays else list(network.input_names)
    missing = [name for name in names if name not in arrays]
    if missing or len(names) != len(network.input_names):
        raise DataRefused(
            f"the data holds {', '.join(arrays) or 'nothing'}; the network takes {', '.join(network.input_names)}: "
            "name the arrays x (and y), x_train, y_train, x_test, y_test, or after the network's inputs"
        )
    inputs = tuple(arrays[name] for name in names)
    targets = arrays.get(f"y{suffix}")
    lengths = {len(array) if array.ndim else 0 for array in (*inputs, *(() if targets is None else (targets,)))}
    if len(lengths) != 1:
        raise DataRefused(f"arrays of different lengths {sorted(lengths)}: inputs and labels must pair up")
    if lengths == {0}:
        raise DataRefused(f"{names[0]} is empty: give at least 5 samples")
    return Arrays(inputs, targets, network.preprocess)


def _image_folder(folder: Path, preprocess: Preprocess | None) -> Images:
    if preprocess is None:
        raise DataRefused(f"{folder} holds uint8 images and the network has no preprocess: add  --preprocess imagenet|unit|FILE")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataRefused(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    parents = sorted({file.parent for file in files})
    if parents == [folder]:
        return Images(tuple(files), None, preprocess)
    classes = {parent: label for label, parent in enumerate(parents)}
    return Images(tuple(files), np.array([classes[file.parent] for file in files], np.int64), preprocess)


def _decode(file: Path, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", extra="images", purpose="reading a folder of images") from error
    try:
        with Image.open(file) as image:
            picture = image.convert("L" if len(preprocess.mean) == 1 and image.mode == "L" else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataRefused(f"{file} is not a readable image ({error}): remove or replace it") from error
    if preprocess.size is not None:
        shorter = min(picture.size)
        width, height = (round(side * preprocess.size / shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    if preprocess.crop is not None:
        top, left = ((pixels.shape[axis] - preprocess.crop[axis]) // 2 for axis in (0, 1))
        pixels = pixels[top : top + preprocess.crop[0], left : left + preprocess.crop[1]]
    return pixels


def _array(value: Any) -> npt.NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _as_batch(batch: Any, inputs: int) -> Batch:
    """A collated batch: a tensor, the inputs in order, or the inputs and a target."""
    parts = list(batch.values()) if isinstance(batch, Mapping) else [batch] if isinstance(batch, Tensor) else list(batch)
    tensors = [_tensor(_array(part), None) for part in parts]
    if len(tensors) not in (inputs, inputs + 1):
        raise DataRefused(
            f"a batch holds {len(tensors)} tensors; the network takes {inputs} inputs: give them, or them and a target"
        )
    return tuple(tensors[:inputs]), tensors[inputs] if len(tensors) > inputs else None


def _tensor(array: npt.NDArray[Any], preprocess: Preprocess | None) -> Tensor:
    """float32 for floating arrays, int64 for integers, bool as it is; uint8 goes through the preprocess if there is one."""
    if array.dtype == np.uint8 and preprocess is not None and array.ndim >= 3:
        return torch.from_numpy(preprocess(array))
    if np.issubdtype(array.dtype, np.floating):
        return torch.from_numpy(np.ascontiguousarray(array, np.float32))
    if array.dtype == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(array))
    if np.issubdtype(array.dtype, np.integer):
        return torch.from_numpy(np.ascontiguousarray(array, np.int64))
    raise DataRefused(f"an array of dtype {array.dtype}: give numbers")


def _task(targets: Tensor | None) -> Literal["classify", "regress", "imitate"]:
    if targets is None:
        return "imitate"
    return "regress" if targets.is_floating_point() else "classify"


def _check(data: Data, network: Network) -> None:
    """Refuse now, in one sentence, what would fail or mislead after an hour."""
    for split in (data.train, data.validation, data.test):
        _check_arrays(split, network)
        inputs, _ = split.first(2)
        for name, example, given in zip(network.input_names, network.example_inputs, inputs, strict=True):
            _check_input(name, example, given, set(network.dynamic_axes.get(name, {})))
    if data.task == "classify" and data.labelled:
        _check_labels(data, network)


def _check_arrays(split: Split, network: Network) -> None:
    if not isinstance(split.samples, Arrays):
        return
    for name, example, array in zip(network.input_names, network.example_inputs, split.samples.inputs, strict=True):
        if array.dtype == np.uint8 and example.is_floating_point() and split.samples.preprocess is None:
            raise DataRefused(
                f"{name} holds uint8 images and the network has no preprocess: add  --preprocess imagenet|unit|FILE, "
                "or give floats as the network takes them"
            )
    named = list(zip(network.input_names, split.samples.inputs, strict=True))
    if split.samples.targets is not None:
        named.append(("the targets", split.samples.targets))
    for name, array in named:
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise DataRefused(f"{name} holds NaN or infinity in the {split.name} split: remove those samples")


def _check_input(name: str, example: Tensor, given: Tensor, dynamic: set[int]) -> None:
    fits = given.ndim == example.ndim and all(
        axis == 0 or axis in dynamic or given.shape[axis] == example.shape[axis] for axis in range(example.ndim)
    )
    if not fits:
        raise DataRefused(f"{name} has shape {list(given.shape[1:])} per sample; the network takes {list(example.shape[1:])}")
    if example.is_floating_point() != given.is_floating_point():
        raise DataRefused(f"{name} is {given.dtype}; the network takes {example.dtype}")


def _check_labels(data: Data, network: Network) -> None:
    classes = network.outputs(*data.train.first(2)[0])[0].shape[1]
    for split in (data.train, data.validation, data.test):
        samples = split.samples
        labels = samples.targets if isinstance(samples, Arrays) else samples.labels if isinstance(samples, Images) else None
        if labels is not None and (labels.min() < 0 or labels.max() >= classes):
            wrong = labels.min() if labels.min() < 0 else labels.max()
            raise DataRefused(f"label {wrong} in the {split.name} split; the network has {classes} classes, 0 to {classes - 1}")
