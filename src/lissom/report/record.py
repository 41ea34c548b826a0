"""The content of result.json: every figure of one run as typed, frozen values that hold no NaN and no infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic.dataclasses import dataclass

from lissom.errors import InputRefused

__all__ = [
    "SCHEMA_VERSION",
    "BeforeAfter",
    "Bytes",
    "Histogram",
    "Latency",
    "Layer",
    "Limit",
    "MetricFigures",
    "Parity",
    "Percentiles",
    "Record",
    "Trial",
    "histograms",
    "json_schema",
]

SCHEMA_VERSION: Final = 1
"""Raised when a reader of the old form would misread the new one; a result of another version is refused."""

# "constants" leaves a NaN inside recipe or machine as it is, so that writing JSON refuses it; otherwise it became null unseen.
_CHECKED = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")
Count = Annotated[int, pydantic.Field(ge=0)]
Positive = Annotated[float, pydantic.Field(gt=0)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]
JSONText = str | bytes
Text = Annotated[str, pydantic.Field(min_length=1)]


def _infinite_is_unknown(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class MetricFigures:
    """The metric of the network that came in and of the file that goes out, on samples that chose nothing.

    Args:
        name: The metric's name (``"accuracy"``).
        unit: ``"share"`` for values in [0, 1]; otherwise the unit of an error.
        split: Which split was measured (``"test"``).
        n: How many samples.
        before: The network that came in.
        after: The file that ships.
        drop: Points of a share lost, or the relative increase of an error; negative where it got better.
        standard_error: The paired standard error of ``drop``; None (or infinity) where one sample cannot say.
        undecided: Whether the data is too small to tell the drop from its limit.
        higher_is_better: False for errors.
    """

    name: Text
    unit: str
    split: str
    n: Count
    before: float
    after: float
    drop: float
    standard_error: Annotated[float | None, pydantic.BeforeValidator(_infinite_is_unknown)] = None
    undecided: bool = False
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Bytes:
    """Sizes of files in bytes; None for a file that was not written.

    Args:
        source: What came in.
        onnx: ``model.onnx``.
        archive: ``model.lissom`` with its network section.
        weights_only: The archive without the network section, which ``ratio`` counts.
    """

    source: Count
    onnx: Count | None = None
    archive: Count | None = None
    weights_only: Count | None = None


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Percentiles:
    """Milliseconds of one call: the 10th percentile, which ratios compare, and the median."""

    p10: Positive
    p50: Positive


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Latency:
    """Time of one call before and after, measured in turns in one runtime.

    Args:
        runtime: The runtime's name (``"onnxruntime"``).
        threads: Threads that it was given.
        batch: Samples in a call.
        before_ms: The network that came in, as that runtime runs it.
        after_ms: The file that ships.
        ratio: ``before_ms.p10 / after_ms.p10``: above 1 is faster.
        runs: Calls of each that were timed.
        cpu: The CPU's model name.
        stable: Whether two halves of the runs agreed within 5 %.
    """

    runtime: Text
    threads: Annotated[int, pydantic.Field(ge=1)]
    batch: Annotated[int, pydantic.Field(ge=1)]
    before_ms: Percentiles
    after_ms: Percentiles
    ratio: Positive
    runs: Count
    cpu: str
    stable: bool = True


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class BeforeAfter:
    """A count in the network that came in and in the one that goes out."""

    before: Count
    after: Count


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Parity:
    """How close the exported file's outputs are to those of the network that it was made from.

    Args:
        runtime: Where the file ran.
        kind: ``"float"`` or ``"integer"``.
        max_relative: ``max|a-b| / max|b|`` of the worst output.
        cosine: Mean cosine over samples.
        agreement: Share of equal top-1, where outputs are classes.
        n: How many samples.
    """

    runtime: Text
    kind: Literal["float", "integer"]
    max_relative: float | None = None
    cosine: float | None = None
    agreement: Share | None = None
    n: Count


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Limit:
    """One limit and what was measured against it.

    Args:
        name: ``"max_drop"``, ``"max_size"`` (bytes), ``"max_latency"`` (milliseconds) or ``"max_time"`` (seconds, of the
            search, which it ends: it is always met).
        limit: The most that was allowed.
        measured: What came out; None where it could not be measured.
        met: Whether it is within the limit.
    """

    name: Text
    limit: float
    measured: float | None = None
    met: bool


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Trial:
    """One candidate that was tried.

    Args:
        name: A short name, unique in the run.
        recipe: What was done, in one line.
        metric: Its metric on the validation split; None where it never ran.
        drop: What it lost there, as in :class:`MetricFigures`.
        bytes: Size in bytes of the file that would ship.
        latency_ms: 10th percentile of one call in milliseconds.
        seconds: How long the trial took.
        kept: True for the one that became the result.
        front: True where no other trial has a file as small and a metric as good, and one of the two better.
        refused_because: Why it is not the result, where there is more to say than that another was better.
    """

    name: Text
    recipe: str = ""
    metric: float | None = None
    drop: float | None = None
    bytes: Count | None = None
    latency_ms: Positive | None = None
    seconds: float = 0.0
    kept: bool = False
    front: bool = False
    refused_because: str = ""


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Histogram:
    """Counts of values in bins of equal width from ``low`` to ``high``; zeros are counted apart, in ``zeros``.

    A pruned tensor is mostly zeros: one tall bar would hide the shape of what is left.
    """

    low: float
    high: float
    counts: tuple[Count, ...]
    zeros: Count = 0


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Layer:
    """One layer with weights, before and after; a layer that was removed has 0 after, one that is new has 0 before.

    Args:
        name: The module's name, as the user's state dict spells it.
        kind: The operator (``"Conv2d"``).
        shape: Shape of its weight as it is now (as it was, where the layer was removed).
        parameters: How many parameters.
        bytes_before: Bytes of its tensors in float32.
        bytes_after: Bytes of its tensors in the weights-only archive.
        sparsity: Share of zeros in its weight now.
        bits: Mean bits per weight in the archive, or the width of its grid where that is not known.
        macs: Multiply-accumulates for one sample.
        ms_before: Milliseconds in the runtime's profile, with what follows the layer up to the next; None where it has none.
        ms_after: The same, after.
        histogram_before: Its weights as they came.
        histogram_after: Its weights now.
    """

    name: Text
    kind: str
    shape: tuple[Count, ...]
    parameters: BeforeAfter
    bytes_before: Count
    bytes_after: Count | None = None
    sparsity: Share = 0.0
    bits: float | None = None
    macs: BeforeAfter | None = None
    ms_before: float | None = None
    ms_after: float | None = None
    histogram_before: Histogram | None = None
    histogram_after: Histogram | None = None


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Record:
    """Everything that result.json holds.

    Args:
        schema_version: Version of this form.
        model: What came in, as the user named it.
        command: What makes this result again; empty where it was called from Python.
        metric: Before and after.
        bytes: Sizes of the files.
        ratio: float32 bytes of all floating tensors / bytes of the weights-only archive.
        latency: One entry per runtime measured; empty where latency was not measured.
        macs: Multiply-accumulates of one sample; None where they are not known.
        peak_memory: Bytes that opening and running the file on one sample adds to a process, at the peak; None where the
            system cannot say.
        parameters: How many parameters.
        parity: One entry per runtime that the file was compared in.
        limits: The limits that were given.
        goal: What was minimised within them.
        ship: Which file counts: the archive, ``model.onnx`` or the weights-only archive.
        recipe: The recipe that won, as YAML holds it.
        trials: Every candidate, in the order tried.
        layers: Every layer with weights, in the network's order.
        notes: What was refused or left alone, and why, in plain sentences.
        machine: Facts of the machine that measured.
        versions: Version of every package that took part.
        seed: Decides every random choice.
        seconds: How long the whole job took.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: str
    metric: MetricFigures
    bytes: Bytes
    parameters: BeforeAfter
    goal: Literal["size", "latency"]
    ship: Literal["archive", "onnx", "weights"]
    recipe: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int
    seconds: float
    ratio: Positive | None = None
    latency: tuple[Latency, ...] = ()
    macs: BeforeAfter | None = None
    peak_memory: BeforeAfter | None = None
    parity: tuple[Parity, ...] = ()
    limits: tuple[Limit, ...] = ()
    trials: tuple[Trial, ...] = ()
    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""

    def to_json(self) -> str:
        """The record as indented JSON, ending with a newline; NaN anywhere, recipe and machine included, is a ValueError."""
        return json.dumps(_adapter().dump_python(self, mode="json"), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: JSONText, *, origin: str = "result.json") -> Record:
        """The record that ``text`` holds.

        Args:
            text: What :meth:`to_json` wrote.
            origin: The file's name, for the message of an error.

        Raises:
            InputRefused: not JSON, of another schema version, or a field is missing or of another kind.

        >>> Record.from_json('{"schema_version": 7}')
        Traceback (most recent call last):
        lissom.errors.InputRefused: result.json has schema version 7; this lissom reads version 1: use the lissom that wrote it
        """
        try:
            content = json.loads(text, parse_constant=_refuse_constant)
        except ValueError as error:
            raise InputRefused(f"{origin} is not the JSON that lissom writes: {error}; run the compression again") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise InputRefused(
                f"{origin} has schema version {version}; this lissom reads version {SCHEMA_VERSION}: use the lissom that wrote it"
            )
        try:
            return _adapter().validate_json(text)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise InputRefused(f"{origin}: {place}: {first['msg']}; run the compression again to write it anew") from error

    @property
    def shipped_bytes(self) -> int | None:
        """Bytes of the file that ships."""
        return {"archive": self.bytes.archive, "onnx": self.bytes.onnx, "weights": self.bytes.weights_only}[self.ship]

    @property
    def chosen(self) -> Trial | None:
        """The trial that became the result."""
        return next((trial for trial in self.trials if trial.kept), None)


def _adapter() -> pydantic.TypeAdapter[Record]:
    return pydantic.TypeAdapter(Record)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def json_schema() -> dict[str, Any]:
    """The JSON schema of result.json, made from the types above; ``docs/result.schema.json`` is its published copy."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_adapter().json_schema(mode="serialization")}


def histograms(before: npt.ArrayLike, after: npt.ArrayLike, bins: int = 48) -> tuple[Histogram, Histogram]:
    """Histograms of two weight tensors over one common range, so that they can be drawn over each other.

    Args:
        before: Values of any shape.
        after: Values of any shape, not necessarily the same.
        bins: How many bins.

    >>> first, second = histograms([-1.0, 0.5, 1.0], [0.0, 0.0, 1.0], bins=2)
    >>> first.counts, second.counts, second.zeros
    ((1, 2), (0, 1), 2)
    """
    arrays = [np.asarray(values, np.float64).ravel() for values in (before, after)]
    reach = max((float(np.abs(values).max()) for values in arrays if values.size), default=0.0) or 1.0
    made = []
    for values in arrays:
        counts, _ = np.histogram(values[values != 0], bins=bins, range=(-reach, reach))
        zeros = int(values.size - np.count_nonzero(values))
        made.append(Histogram(low=-reach, high=reach, counts=tuple(counts.tolist()), zeros=zeros))
    return made[0], made[1]
