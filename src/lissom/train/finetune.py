"""Finetune: train a network further, through whatever edits it carries."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt
from pydantic import BeforeValidator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom import edits
from lissom.calibrate.importance import felt
from lissom.errors import LissomError, UsageError
from lissom.files import write_bytes
from lissom.job import Job, Nested, Step, step, value_class
from lissom.measure.metrics import measure
from lissom.network import Network, flatten_outputs
from lissom.train.distill import Distill
from lissom.train.rate import Rate, RateTerm

__all__ = ["Finetune", "Optimizer"]

FELT, TRIED = 256, 2048
"""Samples that say what the answers feel of each level before the last choice of them, and that the choice is tried on."""


@runtime_checkable
class ActsDuringTraining(Protocol):
    """A step that changes the module little by little while it trains."""

    def begin(self, module: nn.Module, job: Job) -> None:
        """Attach to ``module`` what :meth:`update` will change."""

    def update(self, module: nn.Module, job: Job, progress: float, *, learning_rate: float) -> None:
        """After an optimizer step at ``learning_rate``; ``progress`` runs from 0 to 1 over the training."""


@value_class
class Optimizer:
    """Which optimizer, and how its learning rate moves.

    Args:
        name: A class of ``torch.optim``.
        schedule: ``"cosine"`` falls from the learning rate to zero along half a cosine (arXiv:1608.03983);
            ``"constant"`` stays.
        warmup: Share of the run over which the learning rate rises linearly from zero.
        options: Further arguments of the optimizer: ``{"momentum": 0.9, "weight_decay": 1e-4}``.
    """

    name: str = "Adam"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[float, Ge(0)] = 0.0
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def build(self, parameters: list[nn.Parameter] | list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """The torch optimizer over ``parameters``, or over groups of them."""
        kind = getattr(torch.optim, self.name, None)
        if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
            raise UsageError(f"Optimizer: name is {self.name!r}; it must be a class of torch.optim, such as Adam or SGD")
        try:
            arguments: dict[str, Any] = {"lr": learning_rate, **self.options}
            return kind(parameters, **arguments)
        except (TypeError, ValueError) as error:
            raise UsageError(f"Optimizer: options are {self.options!r}: torch.optim.{self.name} says: {error}") from error

    def factor(self, progress: float) -> float:
        """What the learning rate is multiplied by at ``progress`` in [0, 1]."""
        rise = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        return rise * (0.5 * (1 + math.cos(math.pi * progress)) if self.schedule == "cosine" else 1.0)


def _as_rate(value: Any) -> Any:
    return Rate(weight=value) if isinstance(value, int | float) else value


@step
class Finetune(Step):
    """Train the network further: masked weights stay zero, levels stay on their grid, codebooks move.

    With labels the loss is the job's; ``distill`` mixes in the teacher's outputs. Without labels the network learns
    from the teacher alone. Training resumes to the same bits from its last whole epoch if the job keeps checkpoints
    and the number of threads is the same.

    Args:
        epochs: Times that the training split is seen.
        learning_rate: At the start (after the warm-up).
        batch_size: Samples per optimizer step.
        optimizer: Which one, and its schedule.
        distill: How the teacher is imitated; None for labels alone.
        during: A step that acts while this one trains: ``PruneWeights(schedule=…)``.
        patience: Stop after this many epochs without a better validation metric, and keep the best, which may be what the
            training began with; None trains on. What acts ``during`` training or trains against the file is compared from the
            first epoch on.
        rate: Train against the archive's bits; a number is the weight of :class:`Rate`. A training loop of your own
            (``train`` of the job) needs to know nothing of it: gradients of the bits are added to those that it takes.

    Raises:
        LissomError: the loss became NaN or infinite.

    Example:
        >>> Finetune(epochs=3, learning_rate=1e-4).to_dict()
        {'Finetune': {'epochs': 3, 'learning_rate': 0.0001}}
    """

    epochs: Annotated[int, Ge(1)]
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    batch_size: Annotated[int, Ge(1)] = 64
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    distill: Distill | None = None
    during: Nested | None = None
    patience: Annotated[int, Ge(1)] | None = None
    rate: Annotated[Rate | None, BeforeValidator(_as_rate)] = None

    def apply(self, network: Network, job: Job) -> Network:
        """The trained network."""
        trained = edits.copy(network)
        if job.train is not None:
            return self._by_own_loop(job.train, trained, job)
        with torch.random.fork_rng():
            torch.manual_seed(job.seed)
            return _Training(self, trained, job).run()

    def _by_own_loop(self, train: Callable[..., Any], network: Network, job: Job) -> Network:
        """Trained by the user's loop, which may be longer or shorter than ``epochs`` of these batches."""
        module, rate = network.module, None
        if self.rate is not None:
            rate = RateTerm(self.rate, module, len(job.data.train))
        steps = self.epochs * -(-len(job.data.train) // self.batch_size)
        with contextlib.nullcontext() if rate is None else rate.under_any_loop(steps):
            train(module, job)
        module.eval()
        return network if rate is None else network.noting(rate.settle())


class _Training:
    """One run of :class:`Finetune`: the state that moves, and what a checkpoint holds of it."""

    def __init__(self, settings: Finetune, network: Network, job: Job) -> None:
        self.settings, self.network, self.job = settings, network, job
        self.module = network.module.to(job.device)
        self.distill = settings.distill if job.data.labelled else (settings.distill or Distill())
        self.share = self.distill.weight if self.distill and job.data.labelled else float(self.distill is not None)
        self.teacher = None
        if self.distill is not None:
            if job.teacher is None:
                raise UsageError("Finetune: distillation needs a teacher: give the job the original network")
            self.teacher = job.teacher.module.to(job.device).eval()
        self.during = _acting(settings.during)
        if self.during is not None:
            self.during.begin(self.module, job)
        self.rate = None if settings.rate is None else RateTerm(settings.rate, self.module, len(job.data.train))
        parameters: Any = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        if self.rate is not None:
            parameters = self.rate.groups()
        self.optimizer = settings.optimizer.build(parameters, settings.learning_rate)
        self.steps_per_epoch = -(-len(job.data.train) // settings.batch_size)
        self.epoch = 0
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def run(self) -> Network:
        self._resume()
        if self.epoch == 0 and self.during is None and self.rate is None:
            self._watch()
        with self.job.progress.task("training", self.settings.epochs * self.steps_per_epoch) as task:
            task.advance(self.epoch * self.steps_per_epoch)
            while self.epoch < self.settings.epochs and not self._out_of_patience():
                self.job.check_time()
                loss = self._train_epoch(task.advance)
                self.epoch += 1
                if not math.isfinite(loss):
                    raise LissomError(
                        f"the training loss became {loss} in epoch {self.epoch}: lower the learning rate, "
                        f"which is {self.settings.learning_rate}"
                    )
                if self.rate is not None:
                    task.advance(0, f"archive {self.rate.hold_to_archive():,} bytes")
                self._watch()
                self._save()
        if self.best is not None:
            self.module.load_state_dict(self.best[2])
        if self.rate is not None:
            self.network = self.network.noting(self.rate.settle())
        if self.during is not None:  # a training that stopped early owes the rest
            self.during.update(self.module, self.job, 1.0, learning_rate=0.0)
        self.module.eval().to("cpu")
        if self.teacher is not None:
            self.teacher.to("cpu")
        return self.network

    def _train_epoch(self, advance: Callable[[float, str], None]) -> float:
        self.module.train()
        total, count = torch.zeros(()), 0
        for number, (inputs, targets) in enumerate(
            self.job.data.train.batches(self.settings.batch_size, seed=self.job.seed * 100_003 + self.epoch)
        ):
            if len(inputs[0]) == 1 and number > 0:
                continue  # batch-norm cannot train on a last batch of one sample
            self.job.check_time()  # a resumed run goes on from the last whole epoch
            progress = (self.epoch + number / self.steps_per_epoch) / self.settings.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self.settings.optimizer.factor(progress) * group.get("pace", 1.0)
            if self.rate is not None and self.rate.due(progress):
                self._choose_levels(self.rate)
            loss = self._loss(inputs, targets)
            if self.rate is not None:
                loss = loss + self.rate.loss(progress)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.rate is not None:
                self.rate.watch(progress)
            self.optimizer.step()
            if self.during is not None:
                after = (self.epoch + (number + 1) / self.steps_per_epoch) / self.settings.epochs
                self.during.update(self.module, self.job, after, learning_rate=self.optimizer.param_groups[0]["lr"])
            total, count = total + loss.detach().cpu(), count + 1
            advance(1, f"loss {float(total) / count:.4f}" if number % 50 == 0 else "")
        return float(total) / max(count, 1)

    def _loss(self, inputs: tuple[Tensor, ...], targets: Tensor | None) -> Tensor:
        device = self.job.device
        inputs = tuple(tensor.to(device) for tensor in inputs)
        with parametrize.cached():  # a module called twice computes its edited weight once
            outputs = flatten_outputs(self.module(*inputs))
        loss = torch.zeros((), device=device)
        if self.share < 1:
            loss = loss + (1 - self.share) * self.job.loss(outputs, None if targets is None else targets.to(device))
        if self.distill is not None and self.teacher is not None and self.share > 0:
            with torch.no_grad():
                expected = flatten_outputs(self.teacher(*inputs))
            loss = loss + self.share * self.distill.loss(outputs, expected, classes=self.job.data.task == "classify")
        return loss

    def _choose_levels(self, rate: RateTerm) -> None:
        """The last choice of levels, by what the answers feel of each and by the loss on samples of the training split."""
        train, size, seed = self.job.data.train, self.settings.batch_size, self.job.seed
        self.module.eval()
        singles = (inputs for inputs, _ in itertools.islice(train.batches(1, seed=seed), FELT))
        found = felt(
            self.module,
            (tuple(tensor.to(self.job.device) for tensor in inputs) for inputs in singles),
            classify=self.job.data.task == "classify",
            moments=False,
        )
        batches = list(itertools.islice(train.batches(size, seed=seed), -(-TRIED // size)))
        with torch.no_grad():
            rate.choose(
                {id(parameter): found[name].fisher for name, parameter in self.module.named_parameters() if name in found},
                lambda: sum(float(self._loss(*batch)) for batch in batches) / len(batches),
            )
        self.module.train()

    def _watch(self) -> None:
        """Remember the best epoch, where early stopping asks for it."""
        if self.settings.patience is None:
            return
        original = None if self.job.teacher is None else self.job.teacher.outputs
        self.module.eval()
        value = measure(self.network.outputs, self.job.data.validation, self.job.metric, original=original).value
        score = value if self.job.metric.higher_is_better else -value
        if self.best is None or score > self.best[0]:
            self.best = (score, self.epoch, {name: tensor.clone() for name, tensor in self.module.state_dict().items()})

    def _out_of_patience(self) -> bool:
        return (
            self.best is not None and self.settings.patience is not None and self.epoch - self.best[1] >= self.settings.patience
        )

    def _checkpoint(self) -> Path | None:
        return None if self.job.checkpoints is None else self.job.checkpoints / "training.pt"

    def _save(self) -> None:
        path = self._checkpoint()
        if path is None:
            return
        buffer = io.BytesIO()
        torch.save(
            {
                "epoch": self.epoch,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "best": self.best,
                "rate": None if self.rate is None else self.rate.state(),
            },
            buffer,
        )
        write_bytes(path, buffer.getvalue())

    def _resume(self) -> None:
        path = self._checkpoint()
        if path is None or not path.exists():
            return
        with contextlib.closing(path.open("rb")) as file:
            state: dict[str, Any] = torch.load(file, map_location=self.job.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        self.epoch, self.best = state["epoch"], state["best"]
        if self.rate is not None:
            self.rate.load(state["rate"])


def _acting(inner: Step | None) -> ActsDuringTraining | None:
    if inner is None:
        return None
    if not isinstance(inner, ActsDuringTraining):
        raise UsageError(
            f"Finetune: during is {type(inner).__name__}, which does not act during training: put it before or after"
        )
    return inner
