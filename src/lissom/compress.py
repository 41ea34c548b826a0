"""compress(): the whole job, from a network and a limit to files and the evidence."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from lissom import edits
from lissom.callables import callable_name
from lissom.data import Split, load_data
from lissom.deploy.keras import deploy_keras
from lissom.errors import DeployFailed, LimitNotMet, ModelRefused, UsageError
from lissom.evidence import gather
from lissom.files import fingerprint, write_bytes
from lissom.job import Job, OutOfTime, Progress, Silent, Step
from lissom.loading import open_any, structure_text
from lissom.measure.machine import versions
from lissom.measure.metrics import Metric, as_metric, default_metric
from lissom.network import Network
from lissom.networks import open_network
from lissom.recipe import Recipe
from lissom.report.record import Limit, MetricFigures, Record
from lissom.report.record import Parity as RecordedParity
from lissom.report.wording import byte_text, ms_text, spread_text
from lissom.result import Result
from lissom.search.bisection import Candidate, Fixed, Search
from lissom.search.curve import Curve
from lissom.search.lighter import Lighter
from lissom.search.limits import Goal, Limits, Ship
from lissom.search.policy import DEFAULT_MAX_DROP, choose, first_candidates, knob, lighter, prunable, to_size, turn_further
from lissom.search.trial import PARITY_INPUTS, Outcome, Trials
from lissom.search.workspace import Workspace, open_workspace
from lissom.train.losses import default_loss

__all__ = ["Options", "compress", "plan", "raise_if_short"]

FINGERPRINTED = 256  # samples of each split that tell one data set from another


@dataclass(frozen=True, kw_only=True)
class Options:
    """What decides how a job goes.

    Args:
        max_drop: Limit on what the metric may lose: 0.01 is one point. Without any limit or recipe, 0.01 is taken.
        max_size: Limit in bytes on the file that ships.
        max_latency: Limit in seconds for one sample in the target's runtime, one thread.
        max_time: Seconds for the search; the best so far is the result.
        goal: What to minimise within the limits: ``"size"`` or ``"latency"``.
        ship: The file that counts: ``"archive"`` (the default for size), ``"onnx"`` (for latency) or ``"weights"``.
        recipe: What to do: a recipe, its YAML file or a sequence of steps; None lets the job find out within the limits.
        metric: What decides, in place of accuracy, squared error or agreement.
        loss: What training minimises: ``loss(outputs, targets)``.
        train: A training loop, ``train(module, job)``, in place of lissom's.
        task: ``"classify"`` says that unlabelled outputs are classes.
        seed: Decides every random choice.
        device: Where training runs.
        progress: Where progress is shown.
        executor: Any :class:`concurrent.futures.Executor`; the parts of the library of lighter parts are then fitted and
            measured side by side. Latencies are best measured in turn: leave it out for the goal latency on a busy machine.
        curve: Train the whole curve of size against accuracy, each point from the last, in place of the search for one
            recipe; the limits pick the point. Only for the goal size.
        force: Replace what stands in the output folder.
        command: What makes this result again, for the report.
    """

    max_drop: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    max_time: float | None = None
    goal: Goal = "size"
    ship: Ship | None = None
    recipe: Recipe | Iterable[Step] | str | Path | None = None
    metric: Metric | Callable[..., Any] | None = None
    loss: Callable[..., Any] | None = None
    train: Callable[..., Any] | None = None
    task: str | None = None
    seed: int = 0
    device: str = "cpu"
    progress: Progress | None = None
    executor: Executor | None = None
    curve: bool = False
    force: bool = False
    command: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("goal", get_args(Goal)),
            ("ship", (None, *get_args(Ship))),
            ("task", (None, "classify", "regress", "imitate")),
        ):
            if getattr(self, name) not in allowed:
                known = ", ".join(str(value) for value in allowed if value is not None)
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.curve and (self.goal != "size" or self.recipe is not None):
            raise UsageError("curve trains for the goal size by recipes of its own: leave goal and recipe out")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"device is {self.device!r}, which torch cannot use here ({str(error).splitlines()[0]}): take cpu"
            ) from error

    @property
    def limits(self) -> Limits:
        """The limits that were given, or the one that is taken where none was."""
        given = Limits(max_drop=self.max_drop, max_size=self.max_size, max_latency=self.max_latency, max_time=self.max_time)
        if self.recipe is None and self.max_drop is self.max_size is self.max_latency is None:
            return dataclasses.replace(given, max_drop=DEFAULT_MAX_DROP)
        return given

    @property
    def shipped(self) -> Ship:
        """The file that counts."""
        return self.ship or ("archive" if self.goal == "size" else "onnx")


def compress(network: Network | nn.Module | str, data: Any, *, out: str | Path | None = None, **options: Any) -> Result:
    """The smallest or fastest network that still does its job, as files that run, with the evidence.

    Args:
        network: A :class:`~lissom.Network`, an ``nn.Module`` (its example inputs come from the data), or what the command
            takes: a file, or ``module:callable``.
        data: Anything that :func:`lissom.data.load_data` takes: arrays, a ``.npz`` file, a folder of images, a Dataset.
        out: The folder for files, where an interrupted run resumes; None keeps them in a temporary folder until
            :meth:`Result.save`.
        options: The fields of :class:`Options`: ``max_drop``, ``max_size``, ``max_latency``, ``max_time``, ``goal``,
            ``ship``, ``recipe``, ``metric``, ``loss``, ``train``, ``task``, ``seed``, ``device``, ``progress``, ``executor``,
            ``force``.

    Returns:
        The result; ``result.record.limits`` says which limits are met.

    Raises:
        LissomError: see :mod:`lissom.errors`. A limit that is not met is no error here: the closest result comes back
            (and the command ends with exit code 3).

    Example:
        >>> import lissom, numpy as np, torch
        >>> network = lissom.Network(torch.nn.Linear(20, 4), (torch.zeros(2, 20),))
        >>> x = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32)
        >>> result = lissom.compress(network, x, recipe=[lissom.QuantizeWeights(bits=4)])
        >>> result.record.bytes.weights_only < result.record.bytes.source
        True
    """
    settings = Options(**options)
    with ExitStack() as stack:
        if out is None:
            folder = Path(tempfile.mkdtemp(prefix="lissom-"))
            stack.callback(shutil.rmtree, folder / ".lissom-job", ignore_errors=True)
        else:
            folder = Path(out)
        opened, job = _prepare(network, data, settings)
        mark = _fingerprint(opened, job, settings)
        workspace = stack.enter_context(open_workspace(folder, mark, force=settings.force))
        if workspace.finished:
            job.progress.say(f"{folder} holds the finished result of this very job")
            workspace.clean()  # a run killed after its last file leaves its trials
            return Result.load(folder)
        return _Compression(opened, job, settings, workspace).run()


def plan(network: Network | nn.Module | str, data: Any, *, out: str | Path | None = None, **options: Any) -> dict[str, str]:
    """What :func:`compress` would do with the same arguments, after every check of them; nothing is written."""
    settings = Options(**options)
    opened, job = _prepare(network, data, settings)
    searches = _searches(opened, job, settings)
    first = [search.ask() for search in searches if not isinstance(search, Lighter)]  # a library takes minutes to make
    parameters = sum(parameter.numel() for _, parameter in edits.weights(opened.module))
    splits = (job.data.train, job.data.calibration, job.data.validation, job.data.test)
    limits = settings.limits
    return {
        "network": f"{opened.source.location or type(opened.module).__name__}, {parameters:,} parameters",
        "data": ", ".join(f"{len(split):,} {split.name}" for split in splits),
        "metric": job.metric.name,
        "limits": ", ".join(f"{name} {value:g}" for name, value in vars(limits).items() if value is not None) or "none",
        "goal": f"{settings.goal}, shipping {settings.shipped}",
        "tries": "; ".join(
            [
                *(f"{candidate.name}: {candidate.recipe.in_words()}" for candidate in first if candidate is not None),
                *["lighter: the best choice from a library of lighter parts, trained"] * (len(first) < len(searches)),
            ]
        ),
        "out": "a temporary folder" if out is None else str(out),
    }


def _prepare(network: Network | nn.Module | str, data: Any, settings: Options) -> tuple[Network, Job]:
    """Open the network and the data, check that they fit, and put together what steps share."""
    opened = open_any(network, data=data) if isinstance(network, str) else open_network(network, data=data)
    if any(tensor.dtype == torch.bfloat16 for tensor in opened.example_inputs):
        raise ModelRefused("the network takes bfloat16, which the runtimes do not take as input: give it as  module.float()")
    own_targets = settings.loss is not None and settings.metric is not None  # then the targets are the user's business
    samples = load_data(data, opened, seed=settings.seed, task=settings.task, check_targets=not own_targets)
    return opened, Job(
        data=samples,
        loss=settings.loss or default_loss(samples),
        metric=default_metric(samples) if settings.metric is None else as_metric(settings.metric),
        teacher=opened,
        train=settings.train,
        seed=settings.seed,
        device=settings.device,
        progress=settings.progress or Silent(),
        executor=settings.executor,
        deadline=None if settings.max_time is None else time.monotonic() + settings.max_time,
    )


def _searches(network: Network, job: Job, settings: Options) -> tuple[Search, ...]:
    if settings.recipe is not None:
        return (Fixed((Candidate("recipe", Recipe.of(settings.recipe)),)),)
    if settings.curve:
        return (Curve(Curve.epochs_for(job.data), remove_dead=prunable(network)),)
    steered = to_size(settings.limits, settings.shipped, network, job.data)
    turned = knob(settings.goal, network, job.data, settings.limits)
    quick = first_candidates(settings.goal, settings.limits)
    return (*quick, steered, turned, lighter(settings.goal, network, job, settings.limits))


def _fingerprint(network: Network, job: Job, settings: Options) -> str:
    """Of everything that the result depends on.

    The time limit is left out, so that a run may be given more, and so is the number of threads: it moves no more than the
    last bits of a sum, and a run that is resumed, or read again, with another is no other run.
    """
    state = {name: _tensor_mark(tensor) for name, tensor in edits.state_dict(network.module).items()}
    splits = {split.name: [len(split), *_data_marks(split)] for split in (job.data.train, job.data.validation, job.data.test)}
    limits = settings.limits
    return fingerprint(
        state=state,
        data=splits,
        limits=[limits.max_drop, limits.max_size, limits.max_latency],
        goal=[settings.goal, settings.shipped, settings.seed, settings.device],
        recipe=None if settings.recipe is None else Recipe.of(settings.recipe).to_dict(),
        task=[job.data.task, job.metric.name, *(["curve"] if settings.curve else [])],
        own=[None if own is None else callable_name(own) for own in (settings.loss, settings.train)],
        versions=versions(),
    )


def _tensor_mark(tensor: torch.Tensor) -> str:
    return fingerprint(shape=list(tensor.shape), bits=tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())


def _data_marks(split: Split) -> list[str]:
    """Of samples spread over the whole split: looking at all would take long where each is a file to be decoded."""
    step = max(1, len(split) // FINGERPRINTED)
    inputs, targets = dataclasses.replace(split, numbers=split.numbers[::step]).first(FINGERPRINTED)
    return [_tensor_mark(tensor) for tensor in (*inputs, *([] if targets is None else [targets]))]


class _Compression:
    """One job: tries candidates, chooses on validation, reports on test."""

    def __init__(self, network: Network, job: Job, settings: Options, workspace: Workspace) -> None:
        self.network, self.job, self.settings, self.workspace = network, job, settings, workspace
        self.limits = settings.limits
        timed = settings.goal == "latency" or settings.max_latency is not None
        self.trials = Trials(network, job, settings.shipped, timed, workspace)
        self.outcomes: list[tuple[Candidate, Outcome]] = []
        self.started = time.monotonic()

    def run(self) -> Result:
        stopped_early = self._search()
        chosen = self._chosen()
        result = self._hand_over(chosen, stopped_early)
        self.workspace.clean()
        return result

    def _search(self) -> bool:
        """Try candidates until none is left or time is up; True where time was up."""
        job = dataclasses.replace(self.job, checkpoints=self.workspace.root / "trials")
        try:
            for search in _searches(self.network, job, self.settings):
                while (candidate := search.ask()) is not None:
                    search.tell(turn_further=self._try(candidate))
        except OutOfTime:
            if not self.outcomes:
                raise
            return True
        return False

    def _try(self, candidate: Candidate) -> bool:
        outcome = self.trials.run(candidate)
        self.outcomes.append((candidate, outcome))
        self.job.progress.say(self._summary(outcome))
        return turn_further(outcome, self.limits, self.settings.shipped)

    def _summary(self, outcome: Outcome) -> str:
        if outcome.refused_because:
            return f"{outcome.name}: refused: {outcome.refused_because}"
        size = outcome.shipped(self.settings.shipped)
        over = ", ".join(outcome.excess(self.limits, self.settings.shipped))
        speed = "" if outcome.latency is None else f", {outcome.latency * 1e3:.3g} ms"
        exceeds = f" (exceeds {over})" if over else ""
        return f"{outcome.name}: {self.job.metric.name} {outcome.metric:.4f}, {size:,} bytes{speed}{exceeds}"

    def _chosen(self) -> Candidate:
        best = choose([outcome for _, outcome in self.outcomes], self.limits, self.settings.goal, self.settings.shipped)
        if best is None:
            reasons = "; ".join(f"{outcome.name}: {outcome.refused_because}" for _, outcome in self.outcomes)
            raise DeployFailed(f"no candidate gave a file that can be handed over: {reasons}")
        return next(candidate for candidate, outcome in self.outcomes if outcome is best)

    def _hand_over(self, chosen: Candidate, stopped_early: bool) -> Result:
        """Put the chosen files in place, measure them on the test split, and write the evidence."""
        made = self.trials.network_of(chosen)
        if stopped_early:
            made = made.noting("the time limit came before the search was done: this is the best so far")
        folder = self.workspace.trial(chosen.name)
        files = {name: folder / name for name in ("model.onnx", "model.lissom")}
        record = gather(
            self.trials,
            chosen,
            made,
            [outcome for _, outcome in self.outcomes],
            limits=self.limits,
            goal=self.settings.goal,
            seed=self.settings.seed,
            command=self.settings.command,
            seconds=time.monotonic() - self.started,
        )
        write_bytes(folder / "model.safetensors", _safetensors(made))
        files["model.safetensors"] = folder / "model.safetensors"
        if made.source.kind == "keras":
            record = self._keras_file(made, record, folder / "model.keras")
            if (folder / "model.keras").exists():
                files["model.keras"] = folder / "model.keras"
        return Result(record, made, files).save(self.workspace.out)

    def _keras_file(self, made: Network, record: Record, path: Path) -> Record:
        """Write the file that Keras loads; the record with its parity, or with why there is none."""
        inputs, _ = self.job.data.calibration.first(PARITY_INPUTS)
        try:
            data, parity = deploy_keras(made, [inputs])
        except DeployFailed as error:
            return dataclasses.replace(record, notes=(*record.notes, str(error)))
        write_bytes(path, data)
        notes = record.notes
        if any(entry.kind == "integer" for entry in record.parity):
            notes = (*notes, "model.keras computes with float activations; integer activations are in model.onnx alone")
        parities = (*record.parity, RecordedParity(**dataclasses.asdict(parity)))
        return dataclasses.replace(record, parity=parities, notes=notes)


def _safetensors(network: Network) -> bytes:
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in edits.state_dict(network.module).items()}
    return save(state, structure_text(network) or None)


def raise_if_short(result: Result) -> None:
    """Raise :class:`LimitNotMet` where the result exceeds a limit or is no smaller than what came in.

    The files are there; the message says which limit failed, and by how much.
    """
    told = [_exceeded(limit, result.record.metric) for limit in result.record.limits if not limit.met]
    if told:
        raise LimitNotMet(f"no candidate met every limit: {'; '.join(told)}. The closest result was written")
    shipped = {
        "archive": result.record.bytes.archive,
        "onnx": result.record.bytes.onnx,
        "weights": result.record.bytes.weights_only,
    }
    size = shipped[result.record.ship]
    if result.record.goal == "size" and size is not None and size >= result.record.bytes.source:
        raise LimitNotMet(
            f"the file is not smaller: {size:,} bytes, and {result.record.bytes.source:,} came in. It was written all the same"
        )


def _exceeded(limit: Limit, metric: MetricFigures) -> str:
    """Which limit failed, and by how much: ``max_size is 16.6 kB, 6.6 kB over the limit of 10.0 kB``."""

    def said(value: float) -> str:
        written = {"max_size": byte_text(value), "max_latency": ms_text(value), "max_drop": spread_text(value, metric.unit)}
        return written[limit.name].replace("\u00a0", " ")

    if limit.measured is None:
        return f"{limit.name} could not be measured, and the limit is {said(limit.limit)}"
    told = f"{limit.name} is {said(limit.measured)}, {said(limit.measured - limit.limit)} over the limit of {said(limit.limit)}"
    if limit.name != "max_drop":
        return told
    error = metric.standard_error
    spread = "" if error is None else f", give or take {spread_text(error, metric.unit)}".replace("\u00a0", " ")
    return f"{told} ({metric.name} on {metric.n:,} {metric.split} samples{spread})"
