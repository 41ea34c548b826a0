"""Preprocesses by name, or from a YAML or JSON file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from lissom.errors import UsageError
from lissom.network import Preprocess

__all__ = ["METADATA_KEY", "PREPROCESSES", "preprocess_dict", "read_preprocess"]

METADATA_KEY = "lissom.preprocess"
"""Under which a file's metadata holds the fields of its preprocess, as JSON."""

PREPROCESSES: dict[str, Preprocess] = {
    "imagenet": Preprocess(size=256, crop=(224, 224), scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "mnist": Preprocess(scale=1 / 255, mean=(0.1307,), std=(0.3081,)),
    "symmetric": Preprocess(scale=1 / 127.5, mean=(1.0,)),
    "unit": Preprocess(scale=1 / 255),
}
"""``imagenet``: torchvision's; ``mnist``: zero mean, unit variance; ``symmetric``: [-1, 1]; ``unit``: [0, 1]."""

_ADAPTER = pydantic.TypeAdapter(Preprocess)
_FIELDS = tuple(field.name for field in dataclasses.fields(Preprocess))


def read_preprocess(source: Preprocess | Mapping[str, Any] | str | os.PathLike[str]) -> Preprocess:
    """The preprocess that a name, a file or a mapping of its fields describes.

    Args:
        source: A name of :data:`PREPROCESSES`, a YAML or JSON file of the fields of :class:`~lissom.network.Preprocess`,
            a mapping of them, or a preprocess as it is.

    Raises:
        UsageError: no such name or file, or a field is wrong.

    >>> read_preprocess("unit") == read_preprocess({"scale": 1 / 255})
    True
    """
    if isinstance(source, Preprocess):
        return source
    if isinstance(source, Mapping):
        return _from_fields(source, "preprocess")
    if str(source) in PREPROCESSES:
        return PREPROCESSES[str(source)]
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"no preprocess {str(source)!r}: give {', '.join(PREPROCESSES)}, or a YAML or JSON file of {', '.join(_FIELDS)}"
        )
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))  # YAML reads JSON, too
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is not readable as YAML or JSON ({reason}): write  scale: 0.00392  and so on") from error
    if not isinstance(fields, Mapping):
        raise UsageError(f"{path} holds {type(fields).__name__}, not fields: write any of {', '.join(_FIELDS)}, one on a line")
    return _from_fields(fields, str(path))


def preprocess_dict(preprocess: Preprocess) -> dict[str, Any]:
    """The fields that differ from their defaults, as JSON and YAML take them; :func:`read_preprocess` reads them back.

    >>> preprocess_dict(Preprocess(crop=(224, 224)))
    {'crop': [224, 224]}
    """
    fields: dict[str, Any] = _ADAPTER.dump_python(preprocess, mode="json", exclude_defaults=True)
    return fields


def _from_fields(fields: Mapping[str, Any], where: str) -> Preprocess:
    unknown = [str(name) for name in fields if name not in _FIELDS]
    if unknown:
        raise UsageError(f"{where} has no field {', '.join(unknown)}: it has {', '.join(_FIELDS)}")
    try:
        return _ADAPTER.validate_python({name: _one_or_many(name, value) for name, value in fields.items()})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "preprocess"
        raise UsageError(f"{where}: {field} is {first.get('input')!r}: {first['msg']}") from error


def _one_or_many(name: str, value: Any) -> Any:
    """One number stands for a tuple of one, and one side for a square."""
    if not isinstance(value, int | float):
        return value
    return {"mean": (value,), "std": (value,), "crop": (value, value)}.get(name, value)
