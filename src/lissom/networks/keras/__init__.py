"""The Keras door: ``.keras`` and ``.h5`` files and live models, on Keras 3's torch backend."""

from lissom.networks.keras.backend import import_keras, is_keras_model
from lissom.networks.keras.door import open_keras, read_keras
from lissom.networks.keras.module import KerasModule

__all__ = ["KerasModule", "import_keras", "is_keras_model", "open_keras", "read_keras"]
