"""Limits and goal: what the user can spare and what to minimise, from text such as ``1%``, ``2MB``, ``5ms``, ``30min``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lissom.errors import UsageError

__all__ = ["Goal", "Limits", "Ship", "parse_bytes", "parse_drop", "parse_seconds"]

Goal = Literal["size", "latency"]
Ship = Literal["archive", "onnx", "weights"]

_BYTES = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the result must keep to; None is no limit.

    Args:
        max_drop: Of the metric: absolute points for metrics in [0, 1] (0.01 is one point), relative increase of errors.
        max_size: Bytes of the file that ships.
        max_latency: Seconds for one call with one sample, in the runtime of the target, one thread.
        max_time: Seconds that the search may take.
    """

    max_drop: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    max_time: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_drop", "max_size", "max_latency", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}; it must be a number from 0 up")


def parse_drop(text: str) -> float:
    """A drop as a share: ``"1%"`` and ``"0.01"`` are one point.

    >>> parse_drop("0.5%")
    0.005
    """
    value, unit = _number(text, "--max-drop", {"": 1.0, "%": 0.01}, "1%, 0.5% or 0.01")
    if value * unit > 1:
        raise UsageError(f"--max-drop is {text!r}, which is over 100 %: write  1%  for one point, or 0.01")
    return round(value * unit, 12)


def parse_bytes(text: str) -> float:
    """A size in bytes; kB, MB, GB count in thousands, KiB, MiB, GiB in 1024.

    >>> parse_bytes("2MB"), parse_bytes("1 KiB")
    (2000000.0, 1024.0)
    """
    value, unit = _number(text, "--max-size", {"": 1, **_BYTES}, "2MB, 300kB or 4096")
    return value * unit


def parse_seconds(text: str, option: str) -> float:
    """A time in seconds; the unit must be given.

    >>> parse_seconds("5ms", "--max-latency")
    0.005
    """
    value, unit = _number(text, option, _SECONDS, "5ms, 30s, 20min or 2h")
    return value * unit


def _number(text: str, option: str, units: dict[str, float], examples: str) -> tuple[float, float]:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?\d+)?)\s*([a-z%]*)\s*", text.lower())
    if match is None or match[2] not in units:
        raise UsageError(f"{option} is {text!r}; write it like {examples}")
    return float(match[1]), units[match[2]]
