"""Reading ``.keras`` and ``.h5`` files: what they hold is looked at as JSON before Keras builds anything of it."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lissom.errors import ModelRefused
from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.preprocessing import cut_front

__all__ = ["load"]


def load(file: Path, *, trust: bool = False) -> tuple[Any, tuple[str, ...]]:
    """The Keras model of a file, and what there is to say about it.

    Args:
        file: ``.keras`` or ``.h5``.
        trust: Whether code in the file may run.

    Raises:
        ModelRefused: see :func:`lissom.networks.keras.read_keras`.
    """
    config = _config(file)
    _refuse_code(config, file, trust=trust)
    keras = import_keras()
    source, notes = cut_front(file, config) if file.suffix == ".keras" else (None, ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(keras, file, source, trust=trust), notes
    except Exception as error:  # Keras raises what its layers' constructors do
        raise _refusal(file, config, error) from error


def _read(keras: Any, file: Path, source: bytes | None, *, trust: bool) -> Any:
    if source is None:
        return keras.saving.load_model(file, compile=False, safe_mode=not trust)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="lissom-") as folder:
        cut = Path(folder) / file.name
        cut.write_bytes(source)
        return keras.saving.load_model(cut, compile=False, safe_mode=not trust)


def _config(file: Path) -> dict[str, Any]:
    """The model's configuration as JSON."""
    try:
        text = _config_of_archive(file) if file.suffix == ".keras" else _config_of_h5(file)
        found = json.loads(text)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelRefused(
            f"{file} is not a whole Keras model ({reason[:120]}): write it with  model.save({file.name!r}); a file of weights "
            "alone has no network in it"
        ) from error
    if not isinstance(found, dict):
        raise ModelRefused(
            f"{file} is not a Keras model: its configuration is no object; write it with  model.save('model.keras')"
        )
    return found


def _config_of_archive(file: Path) -> str | bytes:
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")
        return archive.read("config.json")


def _config_of_h5(file: Path) -> str | bytes:
    from lissom.errors import MissingExtra

    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtra("h5py", extra="keras", purpose="a Keras model in an .h5 file") from error
    with h5py.File(file, "r") as opened:
        text: str | bytes = opened.attrs["model_config"]
        return text


def _refuse_code(config: dict[str, Any], file: Path, *, trust: bool) -> None:
    names = [str(_settings(entry).get("name", "?")) for entry in _entries(config) if _brings_code(entry)]
    if names and not trust:
        raise ModelRefused(
            f"{file} brings Python code along, in {', '.join(dict.fromkeys(names))}: such code can do anything, so it is "
            "run only with  --trust  (in Python: open_network(file, trust=True)); layers of keras.layers and registered ones "
            "need none"
        )


def _entries(value: Any) -> Iterator[dict[str, Any]]:
    """Every serialised object in a configuration."""
    if isinstance(value, dict):
        if "class_name" in value:
            yield value
        for inner in value.values():
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _settings(entry: dict[str, Any]) -> dict[str, Any]:
    config = entry.get("config")
    return config if isinstance(config, dict) else {}


def _brings_code(entry: dict[str, Any]) -> bool:
    """Lambda layers with a lambda, and layers that hold a pickled module."""
    if entry["class_name"] == "TorchModuleWrapper":
        return True
    function = _settings(entry).get("function")
    if entry["class_name"] != "Lambda" or function is None:
        return False
    if isinstance(function, dict):
        return function.get("class_name") in ("__lambda__", "__function__") or "code" in function
    return not isinstance(function, str) or _settings(entry).get("function_type") == "lambda"


def _refusal(file: Path, config: dict[str, Any], error: Exception) -> ModelRefused:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    unknown = [
        str(entry["class_name"])
        for entry in _entries(config)
        if isinstance(entry.get("class_name"), str)
        and (entry.get("registered_name") or not str(entry.get("module") or "keras").startswith("keras"))
    ]
    text = str(error)
    if unknown and any(words in text for words in ("Could not locate", "Unknown", "register_keras_serializable", "not found")):
        return ModelRefused(
            f"{file} has classes that are not Keras' own and that nobody has registered: {', '.join(dict.fromkeys(unknown))}. "
            "Decorate each with  @keras.saving.register_keras_serializable()  and give  module:callable  instead of the file: a "
            "function, in the module that defines them, that returns  keras.saving.load_model(…)"
        )
    if "safe_mode" in text or "unsafe" in text:
        return ModelRefused(f"{file} asks Keras to run code: {reason}; it is run only with  --trust")
    return ModelRefused(f"Keras cannot read {file}: {reason[:300]}")
