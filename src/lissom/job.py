"""Job: what steps share. Step: one thing to do to a network, as a frozen value."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar, dataclass_transform

import pydantic
from torch import Tensor

from lissom.callables import callable_name, load_callable
from lissom.data import Data
from lissom.errors import LissomError, UsageError
from lissom.measure.metrics import Metric
from lissom.network import Network

__all__ = [
    "Job",
    "Named",
    "Nested",
    "OutOfTime",
    "Progress",
    "Silent",
    "Step",
    "Task",
    "step",
    "step_from",
    "steps_by_name",
    "value_class",
]


class OutOfTime(LissomError):
    """The time limit has come; the best result so far stands."""

    exit_code = 3


class Task(Protocol):
    """A piece of work in progress."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Count ``amount`` more as done; ``note`` says what was seen last (``"loss 0.12"``)."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, description: str, total: float) -> AbstractContextManager[Task]:
        """Show work of ``total`` units for as long as the block runs."""

    def say(self, message: str) -> None:
        """Show one line that stays."""


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Silent]:  # noqa: ARG002 - the protocol's arguments
        """Show nothing."""
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Show nothing."""

    def say(self, message: str) -> None:
        """Show nothing."""


Loss = Callable[[tuple[Tensor, ...], Any], Tensor]
"""From the outputs and the targets of a batch to one number to minimise."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What steps share.

    Args:
        data: The samples, in splits.
        loss: What training minimises.
        metric: What decisions are made by.
        teacher: The network that the user brought: its outputs are what distillation imitates.
        train: The user's own training loop, ``train(module, job)``, in place of lissom's; None for lissom's.
        seed: Decides every random choice.
        device: Where training runs.
        progress: Where progress is shown.
        checkpoints: Folder in which long steps keep what they need to resume; None keeps nothing.
        deadline: ``time.monotonic()`` after which work stops; None for no limit.
        executor: Any :class:`concurrent.futures.Executor`, for work that can go side by side; None does it in turn.
    """

    data: Data
    loss: Loss
    metric: Metric
    teacher: Network | None = None
    train: Callable[..., Any] | None = None
    seed: int = 0
    device: str = "cpu"
    progress: Progress = dataclasses.field(default_factory=Silent)
    checkpoints: Path | None = None
    deadline: float | None = None
    executor: Executor | None = None

    def check_time(self) -> None:
        """Raise :class:`OutOfTime` once the deadline has passed."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTime("the time limit (--max-time) has come: give more time, or take the best result so far")


class Step:
    """One thing to do to a network.

    A subclass is decorated with :func:`step`, which makes it a frozen, keyword-only, validated dataclass, and writes
    :meth:`apply`. Equal fields and an equal job give the same network.
    """

    @abstractmethod
    def apply(self, network: Network, job: Job) -> Network:
        """The network after this step; ``network`` itself is left as it was."""

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The step as YAML takes it: its name, and the fields that differ from their defaults."""
        fields = pydantic.TypeAdapter(type(self)).dump_python(self, mode="json", exclude_defaults=True)
        return {type(self).__name__: fields}


def step_from(value: Any) -> Step:
    """The step that ``{name: fields}`` describes; a step is given back as it is.

    Raises:
        UsageError: no step has that name, or a field is wrong.
    """
    if isinstance(value, Step):
        return value
    if isinstance(value, str):
        value = {value: {}}
    if not isinstance(value, dict) or len(value) != 1:
        raise UsageError(f"{value!r} is no step: write  Name: {{field: value}}")
    name, fields = next(iter(value.items()))
    if name not in steps_by_name:
        raise UsageError(f"no step is called {name!r}; there are {', '.join(sorted(steps_by_name))}")
    if not isinstance(fields, dict | None) or not all(isinstance(field, str) for field in fields or ()):
        raise UsageError(f"{name}: {fields!r} are no fields: write  {name}: {{field: value}}")
    return steps_by_name[name](**(fields or {}))


steps_by_name: dict[str, type[Step]] = {}
"""Every step by the name that it has in recipes."""

StepType = TypeVar("StepType", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def value_class(cls: StepType) -> StepType:
    """Make ``cls`` a frozen, keyword-only dataclass whose fields are checked when it is built.

    A field out of range is a :class:`UsageError` that names the class, the field, the value and what is allowed.
    """
    made = pydantic.dataclasses.dataclass(
        frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    )(cls)
    build = made.__init__

    def checked(self: Any, *positional: Any, **fields: Any) -> None:
        try:
            build(self, *positional, **fields)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            # pydantic also names the branch of a union that it tried ("constrained-float"), which is no place
            field = ".".join(part for part in map(str, first["loc"]) if part.isidentifier() or part.isdigit()) or "arguments"
            given = repr(first.get("input"))
            raise UsageError(f"{cls.__name__}: {field} is {given[:80]}: {first['msg']}") from error

    made.__init__ = checked  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def step(cls: StepType) -> StepType:
    """Make ``cls`` a step: a checked frozen value, known to recipes by its class name."""
    made = value_class(cls)
    steps_by_name[cls.__name__] = made
    return made


Named = Annotated[
    Callable[..., Any],
    pydantic.BeforeValidator(lambda value: load_callable(value) if isinstance(value, str) else value),
    pydantic.PlainSerializer(callable_name, when_used="json"),
]
"""The type of a field that takes a callable; it stands in a recipe as ``module:name``."""

Nested = Annotated[
    pydantic.InstanceOf[Step],
    pydantic.BeforeValidator(step_from),
    pydantic.PlainSerializer(lambda value: value.to_dict(), when_used="json"),
]
"""The type of a field that holds another step."""
