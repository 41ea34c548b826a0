"""int8 with calibrated activations: ranges, integer types and what a target allows, chosen by running the candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lissom.calibrate.ranges import Observer, observe, ranges_of
from lissom.codec.tensors import Quantized
from lissom.deploy import integers, targets
from lissom.deploy.deployed import Deployed
from lissom.deploy.editing import Editor
from lissom.deploy.finish import Plain, finish
from lissom.deploy.integer_weights import IntegerTypes, place_weights
from lissom.deploy.settings import Deploy, Ranges, Types
from lissom.deploy.smoothing import smooth
from lissom.deploy.stem import widen_stem
from lissom.deploy.verify import compare
from lissom.deploy.weights import place_levels
from lissom.errors import UsageError
from lissom.measure.latency import time_in_turns
from lissom.runtimes import Session, open_file

__all__ = ["NONE", "TRIED", "Static", "chosen_activations", "deploy_static", "relative_error"]

Array = npt.NDArray[Any]
TRIED: tuple[Ranges, ...] = ("minmax", "percentile", "mse")
"""Range formulas that ``"auto"`` compares, by what the network answers with them."""
NONE: Mapping[str, Ranges] = {}
COMPARED, AT_ONCE = 32, 8
"""Samples that candidates are compared on, and how many of them run at a time."""

TIMED_CALLS = 30
WORTH = 1.02
"""A candidate must be this much faster to be taken before a more exact one."""
ALLOWED = 2.0
"""How many times the error of the most exact candidate a faster one may have."""


@dataclass(frozen=True)
class Candidate:
    """One choice of ranges and types, as the file that it gives."""

    ranges: Ranges
    types: Types
    deployed: Deployed
    error: float


class Static:
    """Makes candidates of one float graph: the observations are made once."""

    def __init__(self, source: Plain, settings: Deploy, batches: Iterable[Sequence[Any]]) -> None:
        self.source, self.settings = source, settings
        self.target = targets.row(settings.target)
        arrays = [tuple(_array(part) for part in batch) for batch in batches]
        self.embedded = integers.embeddings(source.editor, source.quantized)
        self.editor = source.editor
        self.smoothed: dict[str, tuple[str, int]] = {}
        if _smooths(settings, self.editor):
            bits = 8 if settings.types == "auto" else IntegerTypes.of(settings.types).weight_bits
            self.smoothed = smooth(self.editor, source.quantized, arrays, bits=bits, samples=settings.samples)
        narrow = settings.types != "auto" and IntegerTypes.of(settings.types).activation_bits < 8
        self.made = integers.plan(self.editor, source.quantized, settings.keep_float, weighted_only=narrow)
        if not self.made.nodes:
            raise UsageError(
                "no operator of this network has an integer kernel: use precision 'float32', 'float16' or 'int8-dynamic'"
            )
        self.observers = observe(
            self.editor.open(self.made.observed), self.made.observed, arrays, samples=settings.samples, kind=Observer
        )
        self.shown = _first(arrays, COMPARED)
        self.expected = self.answers(self.editor.open())

    def answers(self, session: Session) -> tuple[Array, ...]:
        """What a file gives on the samples that candidates are compared on."""
        starts = range(0, len(self.shown[0]), AT_ONCE)
        pieces = [session(*(array[start : start + AT_ONCE] for array in self.shown)) for start in starts]
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def activations(
        self, ranges: str, types: str, *, own_scales: bool = False, own_ranges: Mapping[str, Ranges] = NONE
    ) -> Editor:
        """A copy of the float graph with QuantizeLinear pairs for activations, of these ranges and types.

        Args:
            ranges: The formula.
            types: Of activations and weights.
            own_scales: Whether each value has a scale constant of its own.
            own_ranges: Values that have a formula of their own.
        """
        editor = self.editor.copy()
        nodes = {id(old): new for old, new in zip(self.editor.nodes, editor.nodes, strict=True)}
        made = integers.Plan(
            [nodes[id(node)] for node in self.made.nodes],
            self.made.integers,
            {value: nodes[id(node)] for value, node in self.made.absorbed.items()},
            self.made.observed,
            self.made.shared,
        )
        steps = self.steps(ranges, types)
        for kind in set(own_ranges.values()):
            other = self.steps(kind, types)
            steps |= {name: other[name] for name, own in own_ranges.items() if own == kind and name in other}
        integers.place(editor, made, steps, symmetric=self.target.symmetric, own_scales=own_scales)
        return editor

    def steps(self, ranges: str, types: str) -> dict[str, integers.Steps]:
        """The integers of each observed value; what the first and the last layer read has 8 bits."""
        kinds, symmetric = IntegerTypes.of(types), self.target.symmetric
        wide = set(integers.ends(self.made)) | self._clipped()
        steps = {}
        for bits in {kinds.activation_bits, 8}:
            seen = {name: at for name, at in self.observers.items() if (8 if name in wide else kinds.activation_bits) == bits}
            found = ranges_of(seen, ranges, bits=bits, symmetric=symmetric, spread=self.settings.spread)
            for name, ends in found.items():
                steps[name] = integers.integer_steps(*ends, signed=kinds.signed, symmetric=symmetric, bits=bits)
        return steps

    def _clipped(self) -> set[str]:
        """Values of a Clip that 4-bit integers cannot stand in for, and that ONNX Runtime refuses to quantize to them."""
        clips = [node for node in self.editor.nodes if node.op_type == "Clip"]
        return {node.output[0] for node in clips if not integers.starts_at_zero(self.editor, node)}

    def candidate(self, ranges: Ranges, types: Types) -> Candidate:
        """The file with these ranges and types, and the relative squared error of its outputs."""
        editor = self.activations(ranges, types)
        kinds = IntegerTypes.of(types)
        bindings = place_weights(editor, self.source.quantized, kinds, integer_bias=self.target.integer_bias)
        held: dict[str, Quantized] = {name: stored for name, stored in self.source.quantized.items() if name in editor.constants}
        bindings += place_levels(editor, held) + self.embedded
        widen_stem(editor, self.target.stem_channels)
        deployed = finish(
            editor, bindings, keep_names=self.source.keep_names, precision="int8", notes=self.notes,
            choices={"ranges": ranges, "types": types},
        )  # fmt: skip
        return Candidate(ranges, types, deployed, self._error(deployed))

    @property
    def notes(self) -> tuple[str, ...]:
        """The network's notes, and what stays in float."""
        note = integers.left_in_float(self.editor, self.made)
        return (*self.source.notes, *((note,) if note else ()))

    def _error(self, deployed: Deployed) -> float:
        """Relative squared error of the outputs, as the file says they are: the runtime's own kernels are verify's affair."""
        return relative_error(self.answers(open_file(deployed.to_bytes())), self.expected)


def deploy_static(source: Plain, settings: Deploy, calibration: Iterable[Sequence[Any]] | None) -> Deployed:
    """Quantize weights and activations of a float graph (``precision="int8"``).

    Raises:
        UsageError: the network has no operator with an integer kernel, or the target does not take the types.
    """
    assert calibration is not None
    return _chosen(Static(source, settings, calibration)).deployed


def chosen_activations(static: Static) -> Deploy:
    """The settings with ranges and types as the static quantizer chooses them, weights rounded to nearest."""
    fixed = static.settings.ranges != "auto" and len(_types(static.settings, static.target)) == 1
    if fixed:
        return replace(static.settings, types=_types(static.settings, static.target)[0])
    best = _chosen(static)
    return replace(static.settings, ranges=best.ranges, types=best.types)


def _chosen(static: Static) -> Candidate:
    types = _types(static.settings, static.target)
    ranges = TRIED if static.settings.ranges == "auto" else (static.settings.ranges,)
    tried = [static.candidate(kind, types[0]) for kind in ranges]
    best = min(tried, key=lambda candidate: candidate.error)
    if len(types) > 1:
        best = _measured(static, [best, *(static.candidate(best.ranges, other) for other in types[1:])])
    return best


def _types(settings: Deploy, target: targets.Target) -> tuple[Types, ...]:
    """The integer types to choose among, the first of which ranges are compared with."""
    if settings.types == "auto":
        return target.types if target.measured else target.types[:1]
    if settings.types not in (*target.types, *target.narrow) and settings.target != "this-machine":
        taken = ", ".join((*target.types, *target.narrow))
        raise UsageError(f"target {settings.target!r} takes {taken}, not {settings.types!r}")
    return (settings.types,)


def _measured(static: Static, candidates: list[Candidate]) -> Candidate:
    """The fastest on this machine among those that are exact: no saturation, and an error near the least.

    Saturation shows as a difference between the runtime's integer kernels and the same file run node by node.
    """
    exact = [candidate for candidate in candidates if not _saturates(static, candidate)] or candidates
    least = min(candidate.error for candidate in exact)
    near = [candidate for candidate in exact if candidate.error <= ALLOWED * max(least, 1e-12)]
    if len(near) == 1:
        return near[0]
    first = tuple(array[:1] for array in static.shown)
    calls: dict[str, Callable[[], Any]] = {
        candidate.types: partial(open_file(candidate.deployed.to_bytes()), *first) for candidate in near
    }
    timed = time_in_turns(calls, calls=TIMED_CALLS)
    fastest = min(timed[candidate.types].p10 for candidate in near)
    fast = [candidate for candidate in near if timed[candidate.types].p10 <= WORTH * fastest]
    return min(fast, key=lambda candidate: candidate.error)


def _saturates(static: Static, candidate: Candidate) -> bool:
    data = candidate.deployed.to_bytes()
    got, expected = (static.answers(open_file(data, optimize=optimize)) for optimize in (True, False))
    return compare([got], [expected], runtime="onnxruntime", kind="integer").cosine < 0.999


def relative_error(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """The largest over the outputs of their squared error, relative to their squared size."""
    pairs = [(ours.astype(np.float64), theirs.astype(np.float64)) for ours, theirs in zip(got, expected, strict=True)]
    return max(float(np.square(a - b).sum() / max(np.square(b).sum(), 1e-30)) for a, b in pairs)


def _smooths(settings: Deploy, editor: Editor) -> bool:
    """Whether channels are smoothed: where the settings leave it open, in the networks that are known to need it."""
    return any(node.op_type == "LayerNormalization" for node in editor.nodes) if settings.smooth is None else settings.smooth


def _first(arrays: Sequence[tuple[Array, ...]], count: int) -> tuple[Array, ...]:
    """The first samples, as one batch, of batches that have the shape of the first."""
    like = [batch for batch in arrays if all(a.shape[1:] == b.shape[1:] for a, b in zip(batch, arrays[0], strict=True))]
    return tuple(np.concatenate(parts)[:count] for parts in zip(*like, strict=True))


def _array(part: Any) -> Array:
    array: Array = part.detach().cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
    return array
