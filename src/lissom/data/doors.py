"""Doors for data: files, folders, arrays, datasets and loaders become :class:`Data`."""

from __future__ import annotations

import dataclasses
import typing
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.callables import current_folder_first, load_callable, names_callable
from lissom.data.checks import fit
from lissom.data.images import read_folder
from lissom.data.samples import TARGET_NAMES, Arrays, Items, Samples, as_array, as_batch
from lissom.data.splits import Data, TaskName
from lissom.errors import DataRefused, UsageError
from lissom.network import Network, Preprocess

__all__ = ["example_inputs", "load_data"]

SPLIT_SUFFIXES = {"train": "_train", "validation": "_val", "test": "_test"}


@dataclass(frozen=True)
class Reader:
    """What the doors know of the network that the data is for.

    Args:
        names: The names of its inputs.
        preprocess: How it takes uint8 images.
        mode: Whether it takes grey or colour images; None if unknown.
        seed: Decides which samples go where, if the data does not say.
    """

    names: tuple[str, ...]
    preprocess: Preprocess | None = None
    mode: Literal["RGB", "L"] | None = None
    seed: int = 0

    def read(self, source: Any) -> Data:
        """The data of any source, in splits."""
        if isinstance(source, Data):
            return source
        if isinstance(source, str | Path):
            return self._named(source)
        if isinstance(source, Mapping):
            return self._mapping({str(name): as_array(value) for name, value in source.items()})
        if isinstance(source, np.ndarray | Tensor):
            return self._sequence((source,))
        if isinstance(source, tuple | list) and source and all(isinstance(part, np.ndarray | Tensor) for part in source):
            return self._sequence(source)
        return self._whole(self._items(source))

    def _named(self, source: str | Path) -> Data:
        path = Path(source)
        if path.is_dir():
            parts = read_folder(path, self.preprocess, self.mode)
            first = parts["all"] if "all" in parts else parts["train"]
            return Data.of(first, seed=self.seed, validation=parts.get("validation"), test=parts.get("test"))
        if names_callable(str(source)) and not path.exists():
            build = load_callable(str(source))
            with current_folder_first():
                return self.read(build())
        return self._mapping(_read_npz(path))

    def _sequence(self, arrays: Iterable[Any]) -> Data:
        """The inputs in order, or the inputs and the labels."""
        parts = [as_array(part) for part in arrays]
        if len(parts) not in (len(self.names), len(self.names) + 1):
            raise DataRefused(
                f"{len(parts)} arrays for a network of {len(self.names)} inputs ({', '.join(self.names)}): "
                "give the inputs, or the inputs and the labels"
            )
        targets = parts[-1] if len(parts) > len(self.names) else None
        return self._whole(self._arrays(dict(zip(self.names, parts, strict=False)), targets))

    def _mapping(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Data:
        """``x, y``, or ``x_train, y_train`` … with the splits as given, or arrays named after the network's inputs."""
        parts = {name: self._pick(arrays, suffix) for name, suffix in SPLIT_SUFFIXES.items()}
        if parts["train"] is None:
            whole = self._pick(arrays, "")
            if whole is None:
                raise DataRefused(
                    f"the data holds {', '.join(arrays) or 'nothing'}; the network takes {', '.join(self.names)}: "
                    "name the arrays x (and y), or x_train, y_train, x_val, y_val, x_test, y_test, or after the network's inputs"
                )
            return self._whole(whole)
        labelled = {name: part.targets is not None for name, part in parts.items() if part is not None}
        if len(set(labelled.values())) > 1:
            bare = [name for name, has in labelled.items() if not has]
            raise DataRefused(
                f"no labels for the {' and the '.join(bare)} split, and labels for others: give y for all or for none"
            )
        return Data.of(parts["train"], seed=self.seed, validation=parts["validation"], test=parts["test"])

    def _pick(self, arrays: Mapping[str, npt.NDArray[Any]], suffix: str) -> Arrays | None:
        """The arrays of one split, or None where the mapping has none of it."""
        stems = ("x",) if f"x{suffix}" in arrays and len(self.names) == 1 else self.names
        if not all(f"{stem}{suffix}" in arrays for stem in stems):
            return None
        targets = [arrays[f"{name}{suffix}"] for name in TARGET_NAMES if f"{name}{suffix}" in arrays and name not in stems]
        inputs = {f"{stem}{suffix}": arrays[f"{stem}{suffix}"] for stem in stems}
        return self._arrays(inputs, targets[0] if targets else None)

    def _arrays(self, inputs: Mapping[str, npt.NDArray[Any]], targets: npt.NDArray[Any] | None) -> Arrays:
        named = dict(inputs) if targets is None else {**inputs, "the labels": targets}
        lengths = {name: len(array) if array.ndim else 0 for name, array in named.items()}
        if len(set(lengths.values())) != 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataRefused(f"arrays of different lengths ({told}): inputs and labels must pair up, sample by sample")
        if 0 in lengths.values():
            raise DataRefused(f"{', '.join(inputs)} is empty: give at least 5 samples")
        return Arrays(tuple(inputs.values()), targets, self.preprocess)

    def _whole(self, samples: Samples) -> Data:
        return Data.of(samples, seed=self.seed)

    def _items(self, source: Any) -> Samples:
        """A map-style Dataset as it stands; a DataLoader as its dataset; any other iterable of batches, gathered."""
        from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

        if isinstance(source, DataLoader) and source.batch_sampler is not None and _is_map(source.dataset):
            indices = getattr(source.sampler, "indices", None)  # a loader of some of the samples stands for those alone
            dataset = source.dataset if indices is None else Subset(source.dataset, sorted({int(index) for index in indices}))
            return Items(dataset, self.names, source.collate_fn, self.preprocess)
        if isinstance(source, IterableDataset):
            source = DataLoader(source, batch_size=64)
        elif not isinstance(source, DataLoader) and _is_map(source):
            return Items(source, self.names, default_collate, self.preprocess)
        if not isinstance(source, Iterable):
            raise DataRefused(
                f"data of type {type(source).__name__}: give arrays, a .npz file, a folder of images, a Dataset or a DataLoader"
            )
        batches = [as_batch(batch, self.names, self.preprocess) for batch in source]
        if not batches:
            raise DataRefused("the data yields no batch: give at least 5 samples")
        inputs = tuple(torch.cat([batch[0][index] for batch in batches]).numpy() for index in range(len(self.names)))
        targets = [batch[1] for batch in batches if batch[1] is not None]
        return Arrays(inputs, torch.cat(targets).numpy() if targets else None)


def _is_map(source: Any) -> bool:
    """Whether samples can be fetched by number. Every torch Dataset has ``__getitem__``; only map-style ones have a length."""
    from torch.utils.data import IterableDataset

    return hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, IterableDataset)


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.exists():
        raise DataRefused(f"no data file {path}: give a .npz file, a folder of images, or  module:callable")
    try:
        with path.open("rb") as stream:  # numpy leaves a file that it opened itself open when it is no archive
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataRefused(f"{path} holds one bare array: save it with  numpy.savez({str(path)!r}, x=inputs, y=labels)")
            return {name: file[name] for name in file.files}
    except (
        ValueError,
        OSError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        pickled = "ickle" in str(error)
        reason = (
            "it holds pickled objects, which could run code" if pickled else str(error).splitlines()[0] or type(error).__name__
        )
        raise DataRefused(
            f"{path} is not a .npz file of plain arrays ({reason}): write it again with numpy.savez, numbers only"
        ) from error


def load_data(source: Any, network: Network, *, seed: int = 0, task: str | None = None, check_targets: bool = True) -> Data:
    """Any data that the doors take, split and fitted to the network.

    Args:
        source: A ``.npz`` file, a folder of images, ``module:callable`` that gives data, arrays or tensors (the inputs,
            or the inputs and the labels), a mapping of arrays by name, a torch Dataset or DataLoader, or :class:`Data` itself.
        network: What the data is for; its input names, shapes, dtypes and preprocess are used.
        seed: Decides which samples go where, if the data does not say.
        task: Overrides what the labels imply: ``"classify"`` makes agreement count equal top-1; ``"imitate"`` leaves
            the labels unread.
        check_targets: False where the user's own loss and metric read the targets, whatever they are.

    Raises:
        DataRefused: empty, NaN, labels out of range, uint8 images without a preprocess, or shapes that do not fit.
        UsageError: there is no such task.

    Example:
        >>> network = Network(torch.nn.Linear(4, 3), (torch.zeros(2, 4),))
        >>> data = load_data((np.zeros((10, 4)), np.arange(10) % 3), network)
        >>> data.task, len(data.train), len(data.validation), len(data.test)
        ('classify', 6, 2, 2)
    """
    tasks = typing.get_args(TaskName)
    if task is not None and task not in tasks:
        raise UsageError(f"task is {task!r}; it must be {', '.join(tasks)}")
    reader = Reader(network.input_names, network.preprocess, _mode(network), seed)
    data = reader.read(source)
    if task is not None:
        data = dataclasses.replace(data, task=typing.cast("TaskName", task))
    return fit(data, network, check_targets=check_targets)


def example_inputs(source: Any, names: tuple[str, ...], preprocess: Preprocess | None = None) -> tuple[Tensor, ...]:
    """Two samples of the data as inputs, for a network whose shapes nobody named.

    Args:
        source: Any data that :func:`load_data` takes.
        names: The names of the network's inputs.
        preprocess: How the network takes uint8 images.
    """
    return Reader(names, preprocess).read(source).train.first(2)[0]


def _mode(network: Network) -> Literal["RGB", "L"] | None:
    """Grey or colour, by the channels of the only input, where it is an image."""
    example = network.example_inputs[0]
    if network.preprocess is None or example.ndim != 4:
        return None
    return "L" if example.shape[1 if network.preprocess.layout == "NCHW" else 3] == 1 else "RGB"
