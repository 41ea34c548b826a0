"""Eager torch on the CPU: the network itself, beside the files made from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from lissom.errors import UsageError
from lissom.network import Network, flatten_outputs
from lissom.runtimes.base import Array

__all__ = ["TorchSession", "open_torch"]


class TorchSession:
    """A module in eval mode, called with arrays."""

    def __init__(self, module: nn.Module, input_names: tuple[str, ...], output_names: tuple[str, ...], threads: int) -> None:
        self._module = module.eval()
        self._threads = threads
        self.input_names = input_names
        self.output_names = output_names

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> tuple[Array, ...]:
        """Run once, with this session's number of threads (torch has one setting for the whole process)."""
        before = torch.get_num_threads()
        if before != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                outputs = flatten_outputs(self._module(*(torch.from_numpy(array) for array in arrays)))
            return tuple(output.numpy() for output in outputs)
        finally:
            if before != self._threads:
                torch.set_num_threads(before)


def open_torch(model: Network | nn.Module, *, threads: int = 1, optimize: bool = True) -> TorchSession:  # noqa: ARG001 - the protocol's
    """Open a network or a module in eager torch (see :func:`lissom.runtimes.open_file`)."""
    if isinstance(model, Network):
        return TorchSession(model.module, model.input_names, model.output_names, threads)
    if isinstance(model, nn.Module):
        return TorchSession(model, (), (), threads)
    raise UsageError(f"torch runs a network or a module, not {str(model)[:80]!r}: open files in onnxruntime, or read them first")
