"""The machine that measured: CPU, instruction sets, memory, versions."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["PACKAGES", "cpu_flags", "cpu_model", "instruction_sets", "machine", "versions"]

PACKAGES = ("lissom", "torch", "numpy", "numba", "onnx", "onnxruntime")
"""Packages whose versions decide results."""

_SETS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx_vnni", "avx512_vnni", "amx_int8", "amx_bf16")


@cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's fields, where the system has them."""
    file = Path("/proc/cpuinfo")
    if not file.exists():
        return {}
    first = file.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def cpu_model() -> str:
    """The CPU's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU by the kernel's names."""
    return frozenset(_cpuinfo().get("flags", "").split())


def instruction_sets() -> dict[str, bool]:
    """The instruction sets that decide how fast networks run, and whether this CPU has them."""
    flags = cpu_flags()
    return {name: name in flags for name in _SETS}


def machine() -> dict[str, Any]:
    """The facts that a figure depends on, as JSON takes them."""
    sets = instruction_sets()
    return {
        "cpu": cpu_model(),
        "instruction_sets": [name for name, there in sets.items() if there],
        "vnni": sets["avx512_vnni"] or sets["avx_vnni"],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of every package that decides results."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
