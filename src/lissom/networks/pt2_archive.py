"""A ``.pt2`` file read safely: ``torch.export.load`` runs what a hostile file asks for, so it only gets what was vetted.

Five ways lead from such a file to code: records that are pickled, expressions of lengths (sympy evaluates them as
Python), the names of the operators (any attribute that can be reached from ``torch``, such as ``torch.os.system``),
the structures of inputs and outputs (which may name modules to import), and compiled libraries. The records are read
once, judged, and written into a new archive in memory; torch reads that.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload

from lissom.errors import ModelRefused

__all__ = ["load_exported"]

KEPT_RECORDS = (
    "data/weights/",
    "data/constants/",
    "data/sample_inputs/",
    "models/",
    "archive_",
    ".data/",
    "byteorder",
    "version",
)
CONTROL_FLOW = frozenset({"cond", "wrap_with_autocast", "wrap_with_set_grad_enabled"})
PYTHON_OPERATORS = frozenset(
    {"add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lt", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow",
     "sub", "truediv"}
)  # fmt: skip
MATH_FUNCTIONS = frozenset({"ceil", "floor", "sqrt", "trunc"})
LENGTH_NAME = re.compile(r"Symbol\('[a-z]+\d+'(, \w+=(True|False))*\)|Float\('[\d.e+-]+', precision=\d+\)")
LENGTH_SYMBOL = re.compile(r"[a-z]{1,3}\d+")
LENGTH_WORDS = frozenset(
    {"Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge", "Gt",
     "Identity", "Integer", "IntTrueDiv", "Le", "Lt", "Max", "Min", "Mod", "ModularIndexing", "Mul", "Ne", "Not",
     "OpaqueUnaryFn_sqrt", "Or", "Pow", "PowByNatural", "PythonMod", "Rational", "RoundToInt", "ToFloat", "True", "False",
     "TruncToInt", "Where", "ceiling", "floor", "int_oo", "oo"}
)  # fmt: skip


def load_exported(file: Path) -> torch.export.ExportedProgram:
    """The program that ``torch.export.save`` wrote; nothing in the file is run.

    Raises:
        ModelRefused: truncated, altered, of another kind or version, or it holds what would run as code.
    """
    try:
        vetted = _vetted(file)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise _unreadable(file, error) from error
    try:
        return torch.export.load(vetted)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> ModelRefused:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelRefused(
        f"{file} is not a whole .pt2 file of this torch version ({reason[:120]}): write it again with torch.export.save"
    )


def _vetted(file: Path) -> io.BytesIO:
    """The archive's records, each one harmless, as a new archive."""
    with zipfile.ZipFile(file) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:  # torch stores its records as they are; a compressed one could be any size
            raise _refused(file, f"the record {packed[0]} is compressed")
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    roots = {name.partition("/")[0] for name in records}
    if len(roots) != 1 or not any(name.partition("/")[2].startswith("models/") for name in records):
        raise ModelRefused(
            f"{file} holds no exported program: write it with  torch.export.save(torch.export.export(model, inputs), …)"
        )
    kept = {name: content for name, content in records.items() if name.partition("/")[2].startswith(KEPT_RECORDS)}
    for name, content in kept.items():
        _vet(file, name.partition("/")[2], content, {path.partition("/")[2]: data for path, data in kept.items()})
    vetted = io.BytesIO()
    with zipfile.ZipFile(vetted, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    vetted.seek(0)
    return vetted


def _vet(file: Path, name: str, content: bytes, records: dict[str, bytes]) -> None:
    if name.endswith(".pt"):
        _vet_pickle(file, name, content)
    elif name.endswith("_config.json"):
        folder = name.rpartition("/")[0]
        for entry in json.loads(content)["config"].values():
            record = f"{folder}/{entry['path_name']}"
            if entry["use_pickle"]:
                _vet_pickle(file, record, records[record])
            elif not entry["path_name"].startswith(("weight_", "tensor_")):
                raise _refused(file, f"{record} is an object, not a tensor")
            elif not records[record] and all(length.get("as_int", 1) for length in entry["tensor_meta"]["sizes"]):
                raise _refused(file, f"{record} is empty and claims to be a tensor")
    elif name.startswith("models/"):
        for key, text in _judged(json.loads(content)):
            _JUDGES[key](file, text)


def _vet_pickle(file: Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(file, f"{name} is a pickle that needs code to be read") from error


def _judged(value: Any) -> Iterator[tuple[str, str]]:
    """Every text in the graph that torch would look up or evaluate."""
    if isinstance(value, list):
        for part in value:
            yield from _judged(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            if key in _JUDGES and isinstance(part, str) and (key != "target" or "inputs" in value):
                yield key, part
            else:
                yield from _judged(part)


def _judge_operator(file: Path, target: str) -> None:
    library, _, name = target.partition(".")
    if library == "_operator" and name in PYTHON_OPERATORS:
        return
    if library == "math" and name in MATH_FUNCTIONS:
        return
    if re.fullmatch(r"torch\.sym_\w+", target):
        return
    match = re.fullmatch(r"torch\.ops\.(aten|prims|higher_order)\.(\w+)(?:\.(\w+))?", target)
    if match is None:
        raise _refused(file, f"it calls {target!r}, which is no operator of a network")
    found: Any = getattr(torch.ops, match[1])
    for part in match.groups()[1:]:
        found = found if part is None else getattr(found, part, None)
    if isinstance(found, HigherOrderOperator) and match[2] in CONTROL_FLOW:
        return
    if not isinstance(found, OpOverload):
        raise _refused(file, f"it calls {target!r}, which this torch version does not have")
    if any(argument.name == "filename" for argument in found._schema.arguments):  # noqa: SLF001 - the only place it is told
        raise _refused(file, f"it calls {target!r}, which reads or writes files")


def _judge_length(file: Path, expression: str) -> None:
    bare = LENGTH_NAME.sub("s0", expression)
    strange = [
        word for word in re.findall(r"[A-Za-z_]\w*", bare) if word not in LENGTH_WORDS and not LENGTH_SYMBOL.fullmatch(word)
    ]
    if strange or not re.fullmatch(r"[\w\s+\-*/%(),<>=&|~.]*", bare) or re.search(r"\.\D|\.$", bare):
        raise _refused(file, f"the length {expression[:60]!r} is no arithmetic of lengths")


def _judge_structure(file: Path, text: str) -> None:
    """The nest of inputs or outputs: JSON in JSON, where torch imports the modules of enums and of default factories."""
    pending: list[Any] = [text]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.keys() & {"__enum__", "default_factory_module"}:
                raise _refused(file, f"a structure of its inputs or outputs imports code: {str(part)[:60]}")
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)
        elif isinstance(part, str):
            with contextlib.suppress(ValueError):  # most texts are no JSON
                pending.append(json.loads(part))


def _judge_object(file: Path, text: str) -> None:
    raise _refused(file, f"it holds the object {text[:60]!r}")


_JUDGES = {
    "target": _judge_operator,
    "as_operator": _judge_operator,
    "expr_str": _judge_length,
    "in_spec": _judge_structure,
    "out_spec": _judge_structure,
    "class_fqn": _judge_object,
}


def _refused(file: Path, reason: str) -> ModelRefused:
    return ModelRefused(
        f"{file} is refused: {reason}, and lissom runs no code from files: export the network again with torch.export.save"
    )
