"""What the tests of the Keras door share: Keras on torch, or a skip; and small models."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "bench"


@pytest.fixture(scope="session")
def keras():
    """Keras on its torch backend."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("needs Keras: pip install 'lissom[keras]'")
    from lissom.networks.keras import import_keras

    return import_keras()


@pytest.fixture(scope="session")
def zoo():
    """The table of layers that the bench has, too."""
    spec = importlib.util.spec_from_file_location("keras_layers", BENCH / "keras_layers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["keras_layers"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def classifier(keras, zoo):
    """Convolution, normalisation, dropout and a dense head on images of 8x8, with weights that are all different."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(8, 3, padding="same", name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.SeparableConv2D(6, 3, name="deep"),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(4, activation="softmax", name="head"),
        ],
        name="small",
    )
    return zoo.settle(model)
