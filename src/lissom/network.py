"""Network: a trained module with all that is needed to run, edit and export it. Every front door ends here."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import DataRefused, ModelRefused, UsageError

__all__ = [
    "Bypass",
    "Network",
    "Preprocess",
    "Replace",
    "Resize",
    "Scale",
    "Slice",
    "Source",
    "StructureEdit",
    "flatten_outputs",
    "forward_names",
    "in_pieces",
]

CHANNELS = (1, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How uint8 images become what the network takes: ``(image * scale - mean) / std``, cropped and laid out.

    Args:
        size: Length in pixels that the shorter side of an image file is resized to; None leaves the size alone.
        crop: Height and width of the centre crop in pixels; None keeps the whole image.
        layout: ``"NCHW"`` or ``"NHWC"``: the order of the axes that the network takes.
        scale: Factor on the uint8 values, before the mean is taken off.
        mean: One value, or one per colour channel.
        std: One value, or one per colour channel.

    Example:
        >>> Preprocess(scale=1 / 255)(np.full((1, 2, 2, 3), 255, np.uint8)).shape
        (1, 3, 2, 2)
    """

    size: int | None = None
    crop: tuple[int, int] | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.layout not in ("NCHW", "NHWC"):
            raise UsageError(f"preprocess layout is {self.layout!r}; it must be 'NCHW' or 'NHWC'")
        if self.size is not None and self.size < 1:
            raise UsageError(f"preprocess size is {self.size}; it must be a number of pixels, 1 or more")
        if self.crop is not None and (len(self.crop) != 2 or min(self.crop) < 1):
            raise UsageError(f"preprocess crop is {self.crop}; it must be a height and a width in pixels")
        if len(self.mean) != len(self.std) and 1 not in (len(self.mean), len(self.std)):
            raise UsageError(
                f"preprocess has {len(self.mean)} means and {len(self.std)} stds; give one of each, or one per channel"
            )
        if not all(math.isfinite(value) for value in (self.scale, *self.mean, *self.std)):
            raise UsageError(f"preprocess scale {self.scale}, mean {self.mean} and std {self.std} must be finite")
        if any(value <= 0 for value in self.std):
            raise UsageError(f"preprocess std is {self.std}; every value must be above 0")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn uint8 images [N, H, W, C], [N, C, H, W] or [N, H, W] into float32 inputs in the network's layout.

        The axis of 1, 3 or 4 is the channels; the last one, if there is a choice. Pictures in an array are not resized:
        ``size`` is for files.

        Raises:
            DataRefused: the pictures are smaller than the crop, or have another number of channels than the mean.
        """
        pixels = _channels_last(images)
        channels = max(len(self.mean), len(self.std))
        if pixels.ndim != 4 or channels not in (1, pixels.shape[-1]):
            raise DataRefused(
                f"images of shape {list(images.shape[1:])}; the preprocess has {channels} means: give [height, width, {channels}]"
            )
        if self.crop is not None:
            top, left = self.corner(pixels.shape[1:3])
            pixels = pixels[:, top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        scaled = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if self.layout == "NCHW" else scaled)

    def corner(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Top and left of the centre crop in a picture of this height and width.

        Raises:
            DataRefused: the picture is smaller than the crop.
        """
        height, width = self.crop or size
        if height > size[0] or width > size[1]:
            raise DataRefused(
                f"an image of {size[0]}x{size[1]} pixels is smaller than the crop of {height}x{width}: "
                "give larger images, or a preprocess with a size that enlarges image files first"
            )
        return (size[0] - height) // 2, (size[1] - width) // 2


def _channels_last(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[-1] not in CHANNELS and images.shape[1] in CHANNELS:
        return images.transpose(0, 2, 3, 1)
    return images


@dataclass(frozen=True)
class Source:
    """Where a network came from: which door, and what it holds of the original for the way back.

    Args:
        kind: ``"module"``, ``"pt2"``, ``"onnx"``, ``"keras"`` or ``"lissom"``.
        location: The file or ``module:callable`` that the user named; empty for a live object.
        original: What the way back needs (an ONNX ``ModelProto``, a Keras model); None where there is no such thing.
    """

    kind: str = "module"
    location: str = ""
    original: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Slice:
    """One structure edit, so that it can be applied again to the user's own class: the positions that one axis keeps."""

    tensor: str
    axis: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Resize:
    """A size that the module's own code reads from one of its attributes, after slices."""

    module: str
    attribute: str
    value: int


@dataclass(frozen=True)
class Bypass:
    """A block that was removed: its input passes; ``wrapped`` where it answered with a tuple."""

    module: str
    wrapped: bool = False


@dataclass(frozen=True)
class Replace:
    """A layer whose place a block of lighter layers took: see :data:`lissom.graph.blocks.BLOCKS`."""

    module: str
    method: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Scale:
    """A factor on a tensor that makes up for a size that fell, such as that of a head, by whose root code divides."""

    tensor: str
    factor: float


StructureEdit = Slice | Resize | Bypass | Replace | Scale
"""One edit of a network's shape; :func:`lissom.graph.structure.apply_structure` applies it to a module."""


@dataclass(frozen=True)
class Network:
    """A trained ``nn.Module`` in eval mode, with example inputs and the names that files need.

    Steps never change a network: they return another, made with :func:`dataclasses.replace` on a copy of the module.

    Args:
        module: The network; switched to eval mode. Training switches it for as long as it trains.
        example_inputs: One tensor per input, the batch first; a batch of 1 is doubled, so that capturing it
            does not take the batch for a constant.
        input_names: One per input; by default the names of the parameters of ``module.forward``.
        output_names: One per output; by default ``output``, or ``output_0``, ``output_1`` … .
        dynamic_axes: Axes beside the batch whose length may differ from call to call: ``{"ids": {1: "length"}}``.
        preprocess: How uint8 images become inputs; None where inputs are ready as they are.
        source: Where the network came from.
        slices: Structure edits so far, in order.
        notes: What was left alone, and why, in plain sentences; reports print them.
        fixed_batch: Whether the network computes with the batch of its example inputs only; they then stay as they are.

    Raises:
        ModelRefused: the module does not run on the example inputs, or a weight is NaN or infinite.

    Example:
        >>> network = Network(nn.Linear(3, 2), (torch.zeros(1, 3),))
        >>> network.input_names, network.output_names, network.example_inputs[0].shape
        (('input',), ('output',), torch.Size([2, 3]))
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    preprocess: Preprocess | None = None
    source: Source = Source()
    slices: tuple[StructureEdit, ...] = ()
    notes: tuple[str, ...] = ()
    fixed_batch: bool = False

    def __post_init__(self) -> None:
        self.module.eval()
        inputs = self.example_inputs if self.fixed_batch else tuple(_at_least_two(tensor) for tensor in self.example_inputs)
        object.__setattr__(self, "example_inputs", inputs)
        if not self.input_names:
            object.__setattr__(self, "input_names", _input_names(self.module, len(inputs)))
        if len(self.input_names) != len(inputs):
            raise ModelRefused(f"{len(self.input_names)} input names {self.input_names} for {len(inputs)} example inputs")
        if not self.output_names:
            count = len(self.trial_run())
            names = ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))
            object.__setattr__(self, "output_names", names)

    def trial_run(self) -> tuple[Tensor, ...]:
        """The outputs on the example inputs, where the weights are finite and the network runs.

        Raises:
            ModelRefused: a parameter is NaN or infinite, a buffer is NaN (masks may hold infinity), or the network does
                not run or gives no tensor.
        """
        parameters = {name for name, _ in self.module.named_parameters(remove_duplicate=False)}
        bad = [name for name, tensor in self.module.state_dict().items() if _broken(tensor, infinity=name in parameters)]
        if bad:
            raise ModelRefused(f"the weights hold NaN or infinity in {_some(bad)}: load weights that are finite")
        shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in zip(self.input_names, self.example_inputs, strict=True))
        try:
            outputs = self.outputs(*self.example_inputs)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelRefused(
                f"the network does not run on inputs {shapes}: {reason}; give inputs of the shape that it takes"
            ) from error
        if not outputs:
            raise ModelRefused(f"the network gives no tensor on inputs {shapes}: its forward must return tensors")
        return outputs

    def outputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the module in eval mode without gradients; its tensors in order, whatever structure it returns them in."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                return flatten_outputs(self.module(*inputs))
        finally:
            self.module.train(training)

    def noting(self, *notes: str) -> Network:
        """The same network with further notes (each once)."""
        fresh = tuple(note for note in notes if note not in self.notes)
        return dataclasses.replace(self, notes=self.notes + fresh)

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and tensor of every parameter, tied ones once."""
        yield from self.module.named_parameters()


def in_pieces(arrays: Sequence[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Samples in batches of exactly ``size``, for what computes with no other; the last is filled with its last sample.

    >>> [piece.tolist() for (piece,) in in_pieces([torch.arange(3)], 2)]
    [[0, 1], [2, 2]]
    """
    count = len(arrays[0])
    for start in range(0, count, size):
        rows = [min(row, count - 1) for row in range(start, start + size)]
        yield tuple(array[rows] for array in arrays)


def flatten_outputs(outputs: Any) -> tuple[Tensor, ...]:
    """The tensors of a module's output in order: a tensor, a tuple, a dict or any nesting of them."""
    return tuple(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def _at_least_two(tensor: Tensor) -> Tensor:
    if tensor.ndim == 0:
        raise ModelRefused("an example input has no axes: its first axis must be the batch")
    if tensor.shape[0] == 0:
        raise ModelRefused(f"an example input of shape {list(tensor.shape)} is empty: give a batch of at least one sample")
    return torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor


def _broken(tensor: Tensor, *, infinity: bool) -> bool:
    if not tensor.is_floating_point():
        return False
    return not bool(torch.isfinite(tensor).all()) if infinity else bool(torch.isnan(tensor).any())


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    positional = _positional(module)
    if len(positional) < count:
        return tuple(f"input_{index}" for index in range(count)) if count > 1 else ("input",)
    return tuple(parameter.name for parameter in positional[:count])


def forward_names(module: nn.Module) -> tuple[str, ...]:
    """The names of the inputs that ``module.forward`` cannot do without; ``("input",)`` where it names none.

    >>> forward_names(nn.Linear(3, 2))
    ('input',)
    """
    needed = tuple(parameter.name for parameter in _positional(module) if parameter.default is parameter.empty)
    return needed or ("input",)


def _positional(module: nn.Module) -> list[inspect.Parameter]:
    parameters = inspect.signature(module.forward).parameters.values()
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
