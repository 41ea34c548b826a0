"""Images: a folder of image files, by class or without labels, decoded when they are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch

from lissom.data.samples import Batch
from lissom.errors import DataRefused, MissingExtra
from lissom.network import Preprocess

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "Images", "read_folder"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True, eq=False)
class Images:
    """Image files, decoded, resized, cropped and scaled when they are fetched.

    Args:
        files: One file per sample.
        targets: int64 classes, or None.
        preprocess: What to do to the pixels.
        mode: ``"RGB"``, or ``"L"`` for networks that take one channel.
        classes: How many classes the folders stand for; None where their names are the labels, or without labels.
    """

    files: tuple[Path, ...]
    targets: npt.NDArray[np.int64] | None
    preprocess: Preprocess
    mode: Literal["RGB", "L"] = "RGB"
    classes: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, numbers: Sequence[int]) -> Batch:
        """The pictures as the network takes them, and their classes."""
        pixels = [_decode(self.files[number], self.preprocess, self.mode) for number in numbers]
        shapes = sorted({image.shape for image in pixels})
        if len(shapes) > 1:
            raise DataRefused(
                f"images of different sizes, {shapes[0]} and {shapes[-1]}: give a preprocess with size and crop, "
                "so that all become one size"
            )
        inputs = torch.from_numpy(self.preprocess(np.stack(pixels)))
        return (inputs,), None if self.targets is None else torch.from_numpy(self.targets[list(numbers)])


def read_folder(folder: Path, preprocess: Preprocess | None, mode: Literal["RGB", "L"] | None) -> dict[str, Images]:
    """The images below ``folder`` by split: ``{"all": …}``, or train, validation and test where it has such folders.

    A folder for each class gives labels: the numbers in the names if all names are whole numbers, else the classes
    in the order of their names. Images that lie in no class folder have no labels.

    Args:
        folder: The folder.
        preprocess: The network's; without one, uint8 pixels mean nothing to a network.
        mode: ``"L"`` for networks of one channel; None if unknown, and then grey files stay grey for a preprocess of one mean.

    Raises:
        DataRefused: there is no preprocess, there are no images, or labelled and unlabelled ones are mixed.
    """
    if preprocess is None:
        raise DataRefused(f"{folder} holds uint8 images and the network has no preprocess: add  --preprocess imagenet|unit|FILE")
    parts = {
        SPLIT_FOLDERS[entry.name]: entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name in SPLIT_FOLDERS
    }
    if "train" not in parts:
        parts = {"all": folder}
    return {name: _read_classes(part, preprocess, mode) for name, part in parts.items()}


def _read_classes(folder: Path, preprocess: Preprocess, mode: Literal["RGB", "L"] | None) -> Images:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    if not files:
        raise DataRefused(f"{folder} holds no images: put {', '.join(IMAGE_SUFFIXES)} files there, in one folder for each class")
    loose = [file for file in files if file.parent == folder]
    mode = mode or _mode_of(files[0], preprocess)
    if len(loose) == len(files):
        return Images(tuple(files), None, preprocess, mode)
    if loose:
        raise DataRefused(f"{loose[0]} lies beside folders of classes: move it into the folder of its class")
    names = [file.relative_to(folder).parts[0] for file in files]
    ordered = sorted(set(names))
    numbered = all(name.isdecimal() for name in ordered)
    label = {name: int(name) if numbered else position for position, name in enumerate(ordered)}
    targets = np.array([label[name] for name in names], np.int64)
    return Images(tuple(files), targets, preprocess, mode, None if numbered else len(ordered))


def _mode_of(file: Path, preprocess: Preprocess) -> Literal["RGB", "L"]:
    with _opened(file) as image:
        return "L" if image.mode == "L" and len(preprocess.mean) == 1 else "RGB"


def _decode(file: Path, preprocess: Preprocess, mode: str) -> npt.NDArray[np.uint8]:
    """The pixels [H, W] or [H, W, 3]: shorter side to ``size`` (bilinear, antialiased), then the centre crop."""
    with _opened(file) as image:
        try:
            picture = image.convert(mode)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(file, error) from error
    if preprocess.size is not None:
        from PIL import Image

        shorter = min(picture.size)
        width, height = (max(1, preprocess.size * side // shorter) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    if preprocess.crop is None:
        return pixels
    top, left = preprocess.corner(pixels.shape[:2])
    return pixels[top : top + preprocess.crop[0], left : left + preprocess.crop[1]]


def _opened(file: Path) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", extra="images", purpose="reading a folder of images") from error
    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataRefused:
    return DataRefused(f"{file} is not a readable image ({error}): remove or replace it")
