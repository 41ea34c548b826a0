"""Trial: one candidate made into files, proved, and measured on the validation split; kept, so that a resumed run has it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import Tensor

from lissom import edits
from lissom.codec import encode
from lissom.data import Split
from lissom.deploy import Deployed, Parity, deploy, verify
from lissom.deploy.targets import row
from lissom.errors import DeployFailed
from lissom.files import write_bytes, write_text
from lissom.job import Job, OutOfTime
from lissom.loading import structure_text
from lissom.measure.latency import Timing, compare
from lissom.measure.metrics import MARGIN, Measured, Metric, divergence, scores_of
from lissom.network import Network
from lissom.recipe import Recipe
from lissom.runtimes.network import file_network
from lissom.search.bisection import Candidate
from lissom.search.limits import Limits, Ship
from lissom.search.workspace import Workspace

__all__ = ["PARITY_INPUTS", "Outcome", "Trials", "runtime_of", "score_file"]

PARITY_INPUTS = 64
BATCH = 64


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one candidate came to, on the validation split.

    Args:
        name: The candidate's name.
        metric: Of the file; None where no file could be made.
        drop: What it lost.
        standard_error: Paired, of the drop.
        divergence: Mean divergence of its outputs from the original's.
        onnx: Bytes of ``model.onnx``.
        archive: Bytes of ``model.lissom``.
        weights: Bytes of the weights-only archive.
        latency: Seconds of one call of the file; None where latency plays no part.
        latency_before: Seconds of one call of the original's file, measured in turns with it.
        seconds: How long the trial took.
        refused_because: Why no file could be made, or handed over.
        recipe: What was done, in one line.
        choices: Fields of ``Deploy`` that were decided by measuring.
        notes: What deploying left alone or decided.
        parity: How close the file is to the network, by the names of :class:`lissom.deploy.Parity`.
    """

    name: str
    metric: float | None = None
    drop: float | None = None
    standard_error: float | None = None
    divergence: float | None = None
    onnx: int | None = None
    archive: int | None = None
    weights: int | None = None
    latency: float | None = None
    latency_before: float | None = None
    seconds: float = 0.0
    refused_because: str = ""
    recipe: str = ""
    parity: dict[str, Any] | None = None
    choices: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def shipped(self, ship: Ship) -> int | None:
        """Bytes of the file that ships."""
        return {"archive": self.archive, "onnx": self.onnx, "weights": self.weights}[ship]

    @property
    def largest_drop(self) -> float | None:
        """What the drop is below with 95 % confidence, as far as the validation split can tell."""
        return None if self.drop is None else self.drop + MARGIN * (self.standard_error or 0.0)

    def excess(self, limits: Limits, ship: Ship) -> dict[str, float]:
        """The limits that are exceeded, and by what share of the limit; empty where all are met.

        A drop is held to its limit by :attr:`largest_drop`: by the drop itself, the candidate that was lucky on
        validation would win, and miss its limit on the test split.
        """
        pairs = {
            "max_drop": (self.largest_drop, limits.max_drop),
            "max_size": (self.shipped(ship), limits.max_size),
            "max_latency": (self.latency, limits.max_latency),
        }
        over = {}
        for name, (measured, limit) in pairs.items():
            if limit is not None and measured is not None and measured > limit:
                over[name] = (measured - limit) / max(limit, 1e-9)
        return over


@dataclass
class Trials:
    """Runs candidates, each once: a trial that is finished in the workspace is read back, not run again.

    Args:
        network: The network that the user brought.
        job: What steps share.
        ship: Which file counts.
        timed: Whether latency is measured.
        workspace: Where trials keep their files.
        keep_last: The network of the last candidate that ran in this process, by name.
    """

    network: Network
    job: Job
    ship: Ship
    timed: bool
    workspace: Workspace

    def __post_init__(self) -> None:
        self._made: tuple[str, Network] | None = None

    @cached_property
    def reference(self) -> list[tuple[Tensor, ...]]:
        """The original's outputs on the validation split, batch by batch."""
        return self.outputs_of_original(self.job.data.validation)

    def outputs_of_original(self, split: Split) -> list[tuple[Tensor, ...]]:
        """The original's outputs on a split, batch by batch."""
        return [self.network.outputs(*inputs) for inputs, _ in split.batches(BATCH)]

    @cached_property
    def before(self) -> Measured:
        """The original's metric on the validation split."""
        return self.score_original(self.job.data.validation, self.reference)

    @cached_property
    def original_file(self) -> Path:
        """The original, exported as it is: what latency is compared with."""
        path = self.workspace.trial("original") / "model.onnx"
        if not path.exists():
            deploy(self.network).save(path)
        return path

    def run(self, candidate: Candidate) -> Outcome:
        """Make, prove and measure a candidate; a failure of this one candidate is its outcome, not the end of the job."""
        folder = self.workspace.trial(candidate.name)
        known = folder / "trial.json"
        if known.exists():
            return pydantic.TypeAdapter(Outcome).validate_json(known.read_bytes())
        started = time.monotonic()
        try:
            outcome = self._measure(candidate, folder)
        except OutOfTime:
            raise
        except DeployFailed as error:
            outcome = Outcome(name=candidate.name, refused_because=str(error))
        outcome = dataclasses.replace(outcome, seconds=time.monotonic() - started, recipe=candidate.recipe.in_words())
        write_text(known, pydantic.TypeAdapter(Outcome).dump_json(outcome, indent=2).decode())
        return outcome

    def network_of(self, candidate: Candidate) -> Network:
        """The candidate's network: as it was just made, or made again from its checkpoints."""
        if self._made is None or self._made[0] != candidate.name:
            job = dataclasses.replace(self.job, checkpoints=self._checkpoints(candidate), deadline=None)
            self._made = (candidate.name, candidate.recipe.apply(self.network, job))
        return self._made[1]

    def _checkpoints(self, candidate: Candidate) -> Path:
        return self.workspace.trial(candidate.checkpoints or candidate.name)

    def _measure(self, candidate: Candidate, folder: Path) -> Outcome:
        self._made = None
        made = candidate.recipe.apply(self.network, dataclasses.replace(self.job, checkpoints=self._checkpoints(candidate)))
        self._made = (candidate.name, made)
        deployed = self.deploy(made, candidate.recipe)
        deployed.save(folder / "model.onnx")
        write_bytes(folder / "model.lissom", deployed.archive("best", structure_text(made)))
        # The weights of an integer file are its levels: the network's own floats are not what was measured.
        held = edits.tensors(made.module) if deployed.precision == "float32" else deployed.parts()[1]
        weights = encode(held, effort="best")
        runtime = runtime_of(candidate.recipe)
        parity = self.prove(deployed, made, runtime)
        measured, distance = self.score(folder / "model.onnx", self.job.data.validation, self.reference, runtime)
        drop = self.before.drop_to(measured)
        timing = self.time(folder / "model.onnx", runtime) if self.timed else None
        return Outcome(
            name=candidate.name,
            metric=measured.value,
            drop=drop.value,
            standard_error=drop.standard_error if np.isfinite(drop.standard_error) else None,
            divergence=distance,
            onnx=(folder / "model.onnx").stat().st_size,
            archive=(folder / "model.lissom").stat().st_size,
            weights=len(weights),
            parity=dataclasses.asdict(parity),
            choices=dict(deployed.choices),
            notes=deployed.notes,
            latency=None if timing is None else timing.after.p10,
            latency_before=None if timing is None else timing.before.p10,
        )

    def deploy(self, made: Network, recipe: Recipe) -> Deployed:
        """The file of a network, calibrated on the calibration split."""
        calibration = [inputs for inputs, _ in self.job.data.calibration.batches(BATCH)]
        return deploy(made, recipe.deploy, calibration)

    def prove(self, deployed: Deployed, made: Network, runtime: str) -> Parity:
        """Compare the file with the network on real inputs; a file that answers differently is not handed over."""
        inputs, _ = self.job.data.calibration.first(PARITY_INPUTS)
        return verify(deployed, made, [inputs], runtime=runtime, classes=self.job.data.task == "classify")

    def score(self, file: Path, split: Split, reference: list[tuple[Tensor, ...]], runtime: str) -> tuple[Measured, float]:
        """Metric and mean divergence of a file on a split."""
        return score_file(file, split, self.job.metric, reference, self.job.data.task, runtime=runtime)

    def score_original(self, split: Split, reference: list[tuple[Tensor, ...]]) -> Measured:
        """The original's metric on a split, from its outputs there."""
        targets = reference if self.job.metric.against_original else [expected for _, expected in split.batches(BATCH)]
        return scores_of(reference, targets, self.job.metric, split.name)

    @cached_property
    def sample(self) -> tuple[np.ndarray[Any, Any], ...]:
        """One real sample, as the runtime takes it."""
        return tuple(tensor.numpy() for tensor in self.job.data.calibration.first(1)[0])

    def time(self, file: Path, runtime: str) -> Timing:
        """The file's latency beside the original's, in turns, on one sample."""
        return compare(self.original_file, file, self.sample, runtime=runtime)


def runtime_of(recipe: Recipe) -> str:
    """The runtime that a recipe's target stands for: what proves, scores and times its file."""
    return row(recipe.deploy.target).runtime


def score_file(
    file: Path, split: Split, metric: Metric, reference: list[tuple[Tensor, ...]], task: str, *, runtime: str = "onnxruntime"
) -> tuple[Measured, float]:
    """The metric of a file in its runtime, and the mean divergence of its outputs from the original's, on one split."""
    run = file_network(file, runtime=runtime).outputs
    outputs = [run(*inputs) for inputs, _ in split.batches(BATCH)]
    distances = [divergence(ours, theirs, task) for ours, theirs in zip(outputs, reference, strict=True)]
    targets = reference if metric.against_original else [expected for _, expected in split.batches(BATCH)]
    return scores_of(outputs, targets, metric, split.name), float(torch.cat(distances).mean())
