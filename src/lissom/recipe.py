"""Recipe: what is done to a network, in order, and how it becomes a file; equal to its YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from lissom.callables import callable_name
from lissom.deploy import Deploy
from lissom.errors import UsageError
from lissom.files import write_text
from lissom.job import Job, Step, step_from
from lissom.network import Network

__all__ = ["Recipe"]

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """An ordered tuple of steps, and one :class:`~lissom.deploy.Deploy` value.

    Args:
        steps: What is done, in order.
        deploy: How the result becomes a file that runs.

    Example:
        >>> from lissom.quantize.weights import QuantizeWeights
        >>> recipe = Recipe((QuantizeWeights(bits=8),))
        >>> Recipe.from_yaml(recipe.to_yaml()) == recipe
        True
    """

    steps: tuple[Step, ...] = ()
    deploy: Deploy = field(default_factory=Deploy)

    @classmethod
    def of(cls, source: Recipe | Iterable[Step] | str | Path) -> Recipe:
        """A recipe from a recipe, a sequence of steps, or a YAML file."""
        if isinstance(source, Recipe):
            return source
        if isinstance(source, str | Path):
            path = Path(source)
            if not path.exists():
                raise UsageError(f"no recipe file {path}")
            try:
                return cls.from_yaml(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"{path} is no recipe that can be read ({error}): name a recipe.yaml") from error
        return cls(tuple(step_from(entry) for entry in source))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values; fields at their defaults are left out."""
        deploy = pydantic.TypeAdapter(Deploy).dump_python(self.deploy, mode="json", exclude_defaults=True)
        return {"version": VERSION, "steps": [step.to_dict() for step in self.steps], "deploy": deploy}

    def in_words(self) -> str:
        """The recipe in one line, as Python writes its steps; fields at their defaults are left out.

        >>> from lissom.quantize.weights import QuantizeWeights
        >>> Recipe((QuantizeWeights(bits=8, include=("fc*",)),)).in_words()
        "QuantizeWeights(bits=8, include=('fc*',))"
        """
        parts = [*self.steps, *([] if self.deploy == Deploy() else [self.deploy])]
        return ", ".join(_written(part) for part in parts) or "as it is"

    def to_yaml(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_dict(cls, content: Any) -> Recipe:
        """The recipe that plain values describe.

        Raises:
            UsageError: another version, an unknown key or step, or a field out of range.
        """
        import_steps()
        if not isinstance(content, dict) or set(content) - {"version", "steps", "deploy"}:
            raise UsageError("a recipe has the keys version, steps and deploy")
        if content.get("version", VERSION) != VERSION:
            raise UsageError(f"the recipe has version {content['version']!r}; this lissom reads version {VERSION}")
        steps, deploy = content.get("steps") or [], content.get("deploy") or {}
        if not isinstance(steps, list) or not isinstance(deploy, dict):
            raise UsageError("in a recipe, steps is a list and deploy has fields with their values")
        return cls(tuple(step_from(entry) for entry in steps), Deploy(**deploy))

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """The recipe that a YAML text describes; tags that would run code are refused."""
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"the recipe is not valid YAML: {' '.join(str(error).split())}") from error
        return cls.from_dict(content)

    def save(self, path: str | Path) -> None:
        """Write the YAML to ``path``, whole or not at all."""
        write_text(path, self.to_yaml())

    def apply(self, network: Network, job: Job) -> Network:
        """The network after all steps. Each step keeps its checkpoints in a folder of its own."""
        for number, step in enumerate(self.steps):
            job.check_time()
            folder = None if job.checkpoints is None else job.checkpoints / f"step-{number}"
            network = step.apply(network, dataclasses.replace(job, checkpoints=folder))
        return network


def _written(value: Any) -> str:
    """A value as Python writes it; of a step, or of a value inside it, only the fields that differ from their defaults."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return callable_name(value) if callable(value) else repr(value)
    told = [field.name for field in dataclasses.fields(value) if _differs(value, field)]
    return f"{type(value).__name__}({', '.join(f'{name}={_written(getattr(value, name))}' for name in told)})"


def _differs(value: Any, field: dataclasses.Field[Any]) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(getattr(value, field.name) != default)


def import_steps() -> None:
    """Load every room that holds steps, so that recipes find them by name."""
    import lissom.factorize
    import lissom.lighten
    import lissom.prune.channels
    import lissom.prune.heads
    import lissom.prune.l1
    import lissom.prune.layers
    import lissom.prune.weights
    import lissom.quantize.activations
    import lissom.quantize.equalize
    import lissom.quantize.mixed
    import lissom.quantize.rounding
    import lissom.quantize.weights
    import lissom.quantize.within
    import lissom.share
    import lissom.substitute
    import lissom.train.finetune  # noqa: F401
