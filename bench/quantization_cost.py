"""What making a quantized file takes: seconds of the processor, and memory beyond what the process held.

Memory is the highest mark while a file is made, less what was held when the network, its data and the tool's own modules had
been loaded. ``float`` is what writing the network as it is, and running it on the calibration inputs, takes in the same way.
"""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lissom.deploy import deploy, verify
from lissom.network import Network

Array = npt.NDArray[Any]
LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)


@dataclass(frozen=True)
class Made:
    """A quantized file, the CPU seconds that it took to make, and the MB that its process held meanwhile beyond what it had."""

    file: Path
    seconds: float
    memory: float | None = None


def kept(out: Path, make: Callable[[], Any]) -> Made:
    """What stands from a run that was stopped, else made now.

    Args:
        out: The file.
        make: Writes it; gives the MB beyond what was held before, where another process made it.
    """
    note = out.with_suffix(".seconds")
    if not note.exists():
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free already would hide what is taken
        began, held = _cpu_seconds(), _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark begins anew
        memory = make()
        memory = memory if isinstance(memory, float) else _memory("VmHWM") - held
        note.write_text(f"{_cpu_seconds() - began:.1f} {memory:.0f}", encoding="utf-8")
    seconds, *memories = map(float, note.read_text(encoding="utf-8").split())
    return Made(out, seconds, *memories)


def _memory(field: str) -> float:
    """MB of this process: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _cpu_seconds() -> float:
    """Of this process, and of those that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def ready() -> None:
    """Load what exporting and running need: the modules of a tool are no part of what a network takes."""
    sample = (torch.ones(2, 2),)
    network = Network(nn.Linear(2, 2), sample)
    verify(deploy(network), network, [sample])


def largest_layer(network: Network, samples: tuple[Array, ...], batch: int = 20) -> int:
    """Bytes of the layer that takes the most: its weight, and what it reads and gives on all calibration inputs."""
    taken: dict[str, int] = {}

    def count(path: str, layer: Any, read: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        taken[path] = taken.get(path, layer.weight.nbytes) + read[0].nbytes + given.nbytes

    layers = ((path, part) for path, part in network.module.named_modules() if isinstance(part, LAYERS))
    hooks = [
        layer.register_forward_hook(lambda layer, read, given, path=path: count(path, layer, read, given))
        for path, layer in layers
    ]
    for start in range(0, len(samples[0]), batch):
        network.outputs(*(torch.from_numpy(np.ascontiguousarray(part[start : start + batch])) for part in samples))
    for hook in hooks:
        hook.remove()
    return max(taken.values())
