"""The table of operators: which function computes which ONNX operator, by domain, name and version.

An operator is a plain function: the node's inputs are its positional parameters, the node's attributes its
keyword-only ones (``transA`` becomes ``trans_a``), and the defaults are those of the ONNX specification. The
annotation of an input says how it wants it: ``Tensor`` as data, ``Known`` as Python numbers (axes, shapes, bounds),
``Value`` as it comes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

__all__ = ["Entry", "find", "find_shape_rule", "names", "operator", "shape_rule", "snake_case"]

Kind = Literal["tensor", "known", "value"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """One row of the table: a function and the range of operator-set versions that it computes."""

    name: str
    function: Callable[..., Any]
    since: int
    until: int | None
    domain: str = ""
    ignored: frozenset[str] = frozenset()

    @cached_property
    def keywords(self) -> frozenset[str]:
        """The names of the attributes that the function takes."""
        return frozenset(p.name for p in self._parameters if p.kind is p.KEYWORD_ONLY)

    @cached_property
    def required(self) -> frozenset[str]:
        """The attributes without a default."""
        return frozenset(p.name for p in self._parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty)

    @cached_property
    def required_inputs(self) -> int:
        """How many inputs have no default."""
        return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty for p in self._parameters)

    @cached_property
    def most_inputs(self) -> int | None:
        """How many inputs the function takes at most; None for any number."""
        variadic = any(p.kind is p.VAR_POSITIONAL for p in self._parameters)
        return None if variadic else sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in self._parameters)

    @cached_property
    def takes_any_attribute(self) -> bool:
        """Whether attributes that it does not name are ignored."""
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters)

    def kind(self, position: int) -> Kind:
        """How the input at ``position`` wants its value."""
        positional = [p for p in self._parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
        annotation = str(positional[min(position, len(positional) - 1)].annotation)
        if annotation.startswith("Known"):
            return "known"
        return "value" if annotation.startswith("Value") else "tensor"

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())


_TABLE: dict[tuple[str, str], list[Entry]] = {}
_SHAPE_RULES: dict[str, Callable[..., Any]] = {}


def operator(
    name: str, since: int = 1, until: int | None = None, *, domain: str = "", ignores: tuple[str, ...] = ()
) -> Callable[[Function], Function]:
    """Register a function as an operator.

    Args:
        name: The operator's name.
        since: The first version of the operator set that the function computes.
        until: The last one; None for all that follow.
        domain: The operator's domain.
        ignores: Attributes that change nothing in what the function computes.
    """

    def register(function: Function) -> Function:
        _TABLE.setdefault((domain, name), []).append(Entry(name, function, since, until, domain, frozenset(ignores)))
        return function

    return register


def shape_rule(*names: str) -> Callable[[Function], Function]:
    """Register how operators compute with values that are all known; the rule returns None to leave it to the operator."""

    def register(function: Function) -> Function:
        _SHAPE_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def find(domain: str, name: str, version: int) -> Entry | None:
    """The entry that computes the operator in this version of its operator set, or None."""
    for entry in _TABLE.get((domain, name), ()):
        if entry.since <= version and (entry.until is None or version <= entry.until):
            return entry
    return None


def find_shape_rule(domain: str, name: str) -> Callable[..., Any] | None:
    """The rule for known values, or None."""
    return _SHAPE_RULES.get(name) if domain == "" else None


def names() -> frozenset[tuple[str, str]]:
    """Domain and name of every operator in the table."""
    return frozenset(_TABLE)


def snake_case(attribute: str) -> str:
    """The keyword that stands for an attribute.

    >>> snake_case("transA"), snake_case("kernel_shape")
    ('trans_a', 'kernel_shape')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", attribute).lower()
