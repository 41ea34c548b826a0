"""Recipe: what is done to a network, in order, and how it becomes a file; equal to its YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

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
            return cls.from_yaml(path.read_text(encoding="utf-8"))
        return cls(tuple(step_from(entry) for entry in source))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values; fields at their defaults are left out."""
        deploy = pydantic.TypeAdapter(Deploy).dump_python(self.deploy, mode="json", exclude_defaults=True)
        return {"version": VERSION, "steps": [step.to_dict() for step in self.steps], "deploy": deploy}

    def in_words(self) -> str:
        """The recipe in one line.

        >>> from lissom.quantize.weights import QuantizeWeights
        >>> Recipe((QuantizeWeights(bits=8),)).in_words()
        'QuantizeWeights(bits=8)'
        """
        described = [_described(name, fields) for step in self.steps for name, fields in step.to_dict().items()]
        deploy = self.to_dict()["deploy"]
        return ", ".join([*described, *([_described("Deploy", deploy)] if deploy else [])]) or "as it is"

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
        return cls(tuple(step_from(entry) for entry in content.get("steps") or ()), Deploy(**(content.get("deploy") or {})))

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


def _described(name: str, fields: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in fields.items())})"


def _value(value: Any) -> str:
    """A nested step (``{name: {…}}``) reads as a step, anything else as Python writes it."""
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), dict):
        return _described(*next(iter(value.items())))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items()) or "yes"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def import_steps() -> None:
    """Load every room that holds steps, so that recipes find them by name."""
    import lissom.factorize
    import lissom.prune.channels
    import lissom.prune.heads
    import lissom.prune.l1
    import lissom.prune.layers
    import lissom.prune.weights
    import lissom.quantize.activations
    import lissom.quantize.rounding
    import lissom.quantize.weights
    import lissom.share
    import lissom.substitute
    import lissom.train.finetune  # noqa: F401
