"""Network: a trained module with all that is needed to run, edit and export it. Every front door ends here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lissom.errors import ModelRefused, UsageError

__all__ = ["Network", "Preprocess", "Slice", "Source"]


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How uint8 images become what the network takes: ``(image * scale - mean) / std``, cropped and laid out.

    Args:
        size: Length in pixels that the shorter side is resized to; None leaves the size alone.
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
        if any(value <= 0 for value in self.std):
            raise UsageError(f"preprocess std is {self.std}; every value must be above 0")

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn uint8 images [N, H, W, C] or [N, H, W] into float32 inputs in the network's layout."""
        pixels = images[..., None] if images.ndim == 3 else images
        if self.crop is not None:
            height, width = self.crop
            top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
            pixels = pixels[:, top : top + height, left : left + width]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        scaled = (pixels * np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if self.layout == "NCHW" else scaled)


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
    slices: tuple[Slice, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.module.eval()
        inputs = tuple(_at_least_two(tensor) for tensor in self.example_inputs)
        object.__setattr__(self, "example_inputs", inputs)
        if not self.input_names:
            object.__setattr__(self, "input_names", _input_names(self.module, len(inputs)))
        if len(self.input_names) != len(inputs):
            raise ModelRefused(f"{len(self.input_names)} input names {self.input_names} for {len(inputs)} example inputs")
        if not self.output_names:
            count = len(self._trial_run())
            names = ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))
            object.__setattr__(self, "output_names", names)

    def _trial_run(self) -> tuple[Tensor, ...]:
        bad = [name for name, tensor in self.module.state_dict().items() if _not_finite(tensor)]
        if bad:
            raise ModelRefused(f"the weights hold NaN or infinity in {', '.join(bad[:5])}: load weights that are finite")
        try:
            return self.outputs(*self.example_inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shapes = ", ".join(f"{name} {list(t.shape)}" for name, t in zip(self.input_names, self.example_inputs, strict=True))
            reason = str(error).splitlines()[0]
            raise ModelRefused(
                f"the network does not run on inputs {shapes}: {reason}; give inputs of the shape that it takes"
            ) from error

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


def flatten_outputs(outputs: Any) -> tuple[Tensor, ...]:
    """The tensors of a module's output in order: a tensor, a tuple, a dict or any nesting of them."""
    return tuple(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor))


def _at_least_two(tensor: Tensor) -> Tensor:
    if tensor.ndim == 0:
        raise ModelRefused("an example input has no axes: its first axis must be the batch")
    return torch.cat([tensor, tensor]) if tensor.shape[0] == 1 else tensor


def _not_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    positional = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(positional) < count:
        return tuple(f"input_{index}" for index in range(count)) if count > 1 else ("input",)
    return tuple(positional[:count])
