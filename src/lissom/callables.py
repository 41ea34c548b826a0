"""Callables by name: ``module:callable`` stands for code of the user's, which is looked up in the current folder first."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lissom.errors import UsageError

__all__ = ["callable_name", "current_folder_first", "load_callable", "names_callable"]


def names_callable(text: str) -> bool:
    """Whether a text has the form ``package.module:callable``.

    >>> names_callable("examples.lenet:lenet5"), names_callable("model.onnx")
    (True, False)
    """
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def load_callable(name: str) -> Callable[..., Any]:
    """The object that ``module:callable`` names; the current folder is looked at first.

    Raises:
        UsageError: no such module, or nothing of that name in it.

    >>> load_callable("math:sqrt")(4.0)
    2.0
    """
    if not names_callable(name):
        raise UsageError(f"{name!r} names no callable: write  package.module:callable")
    module_name, _, attribute = name.partition(":")
    importlib.invalidate_caches()  # the user may have written the module a moment ago
    with current_folder_first():
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise UsageError(
                f"no module {error.name!r} (for {name!r}) in the current folder or the environment: check the name, "
                "run from the folder that holds it, or install it"
            ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{module_name} has no {attribute!r}; it has {', '.join(_public(found)[:8])}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{name!r} is no callable but of type {type(found).__name__}: name a function or a class")
    return found  # type: ignore[no-any-return]


def callable_name(value: Callable[..., Any]) -> str:
    """The name under which :func:`load_callable` finds a function or a class again; of any other callable, that of its type.

    >>> import math
    >>> callable_name(math.sqrt)
    'math:sqrt'
    """
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


@contextmanager
def current_folder_first() -> Iterator[None]:
    """Import from the current folder before anything else, as a script that lies there would."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:  # the user's code may have changed the path itself
            sys.path.remove(folder)


def _public(module: Any) -> list[str]:
    return [name for name in dir(module) if not name.startswith("_")]
