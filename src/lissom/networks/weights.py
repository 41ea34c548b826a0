"""Weights files: ``.safetensors``, or ``.pt`` read without running code; and their way into a module."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissom import edits
from lissom.errors import ModelRefused

__all__ = ["load_weights", "read_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict in a checkpoint."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What data parallelism, compilation and Lightning put before every name."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name; no code in the file is run.

    Args:
        path: A ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.bin`` file that ``torch.save`` wrote: a state dict, or a
            checkpoint that holds one under ``state_dict``, ``model_state_dict`` or ``model``.

    Raises:
        ModelRefused: missing, truncated, of another kind, or a pickle that needs code.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelRefused(f"no weights file {file}: give a .safetensors file, or a .pt file of a state dict")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ModelRefused(f"{file} is no weights file that lissom reads: give one of {', '.join(_READERS)}")
    return reader(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelRefused(f"{file} is not a whole .safetensors file ({error}): download or save it again") from error
    return tensors


def _read_pickle(file: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():  # of a pickle's version, which the refusal below says better
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error) and "Unsupported class" not in str(error) and "TorchScript" not in str(error):
            raise _unreadable(file, error) from error
        raise ModelRefused(
            f"{file} is a pickle that needs code to be read, and a pickle can run any code: where you trust it, save its tensors "
            "alone with  safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise _unreadable(file, error) from error
    return _state_dict(content, file)


def _unreadable(file: Path, error: Exception) -> ModelRefused:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelRefused(f"{file} is not a whole file of torch.save ({reason[:120]}): download or save it again")


def _state_dict(content: Any, file: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = (
        {str(name): value for name, value in content.items() if isinstance(value, Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise ModelRefused(f"{file} holds no state dict: save one with  torch.save(model.state_dict(), {file.name!r})")
    return tensors


_READERS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_pickle,
    ".pth": _read_pickle,
    ".bin": _read_pickle,
}


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Put the weights into the module in place, every one of them.

    One of several names of a tied tensor is enough, and a prefix that wrappers put before every name is taken off.

    Args:
        module: The network.
        weights: Its tensors by name.
        origin: Where they come from, for the message.

    Raises:
        ModelRefused: tensors are missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    weights = _without_prefix(weights, set(expected))
    wrong = [
        f"{name} is {list(tensor.shape)} and should be {list(expected[name].shape)}"
        for name, tensor in weights.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    tied = edits.aliases(module)
    # Batch-norm counts its batches only since torch 0.4.1, and nothing but an average without momentum reads the count.
    missing = [
        name
        for name in expected
        if not any(alias in weights for alias in tied.get(name, (name,))) and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in weights if name not in expected]
    problems = [f"{label} {_some(names)}" for label, names in
                (("missing", missing), ("unexpected", unexpected), ("of another shape:", wrong)) if names]  # fmt: skip
    if problems:
        raise ModelRefused(
            f"{origin} does not fit the network: {'; '.join(problems)}: "
            "give the weights of this architecture, or the callable that built them"
        )
    module.load_state_dict(weights, strict=False)


def _without_prefix(weights: Mapping[str, Tensor], expected: set[str]) -> Mapping[str, Tensor]:
    for prefix in PREFIXES:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
        if all(name.startswith(prefix) for name in weights) and len(expected & set(stripped)) > len(expected & set(weights)):
            return stripped
    return weights


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
