"""Keras on its torch backend: imported once, with the backend chosen before, or refused with what to do."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import util
from typing import Any

from lissom.errors import MissingExtra, ModelRefused

__all__ = ["import_keras", "is_keras_model"]


def import_keras() -> Any:
    """The ``keras`` package with torch behind it.

    Keras reads ``KERAS_BACKEND`` once, when it is first imported, so it is set before that; a Keras that runs on another
    backend by then cannot change it.

    Raises:
        MissingExtra: Keras is not installed.
        ModelRefused: Keras runs on another backend in this process.
    """
    if "keras" not in sys.modules:
        if util.find_spec("keras") is None:
            raise MissingExtra("keras", extra="keras", purpose="a Keras model")
        os.environ["KERAS_BACKEND"] = "torch"
    keras: Any = importlib.import_module("keras")
    running = keras.backend.backend()
    if running != "torch":
        raise ModelRefused(
            f"Keras runs on {running} in this process, and lissom needs it on torch: save the model with  "
            "model.save('model.keras')  and give that file in a new process, or set  KERAS_BACKEND=torch  before Keras is first "
            "imported"
        )
    return keras


def is_keras_model(model: object) -> bool:
    """Whether an object is a Keras layer or model, on whichever backend; Keras itself is not imported for that."""
    return "keras" in sys.modules and isinstance(model, sys.modules["keras"].layers.Layer)
