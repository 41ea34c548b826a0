"""A TensorFlow SavedModel: in by tf2onnx where that is installed, else refused with the way round."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lissom.errors import ModelRefused
from lissom.networks import open_network

CONVERTS = all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx"))
needs_tensorflow = pytest.mark.skipif(not CONVERTS, reason="needs TensorFlow: pip install 'lissom[tensorflow]'")

SAVE = """
import sys
import numpy as np
import tensorflow as tf

class Model(tf.Module):
    def __init__(self):
        random = tf.random.Generator.from_seed(0)
        self.kernel, self.head = tf.Variable(random.normal((3, 3, 3, 8)) / 3), tf.Variable(random.normal((512, 5)) / 9)

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32, name="images")])
    def __call__(self, images):
        return {"scores": tf.reshape(tf.nn.relu(tf.nn.conv2d(images, self.kernel, 2, "SAME")), [-1, 512]) @ self.head}

model = Model()
tf.saved_model.save(model, "saved")
np.save("answers.npy", model(tf.constant(np.load("images.npy")))["scores"].numpy())
"""


@pytest.mark.skipif(CONVERTS, reason="TensorFlow is installed here")
def test_it_is_refused_with_the_way_round(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    for given in (tmp_path / "saved", tmp_path / "saved" / "saved_model.pb"):
        words = r"is a TensorFlow SavedModel.*model\.save\('model\.keras'\).*lissom\[tensorflow\].*tf2onnx\.convert"
        with pytest.raises(ModelRefused, match=words) as refused:
            open_network(given, trust=True)
        assert f"--saved-model {tmp_path / 'saved'} " in str(refused.value)


@needs_tensorflow
def test_it_goes_in_on_trust_and_answers_as_it_did(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", SAVE], cwd=tmp_path, check=True, capture_output=True)
    with pytest.raises(ModelRefused, match=r"a program that TensorFlow has to load.*--trust"):
        open_network(tmp_path / "saved")
    network = open_network(tmp_path / "saved", trust=True)
    expected = np.load(tmp_path / "answers.npy")
    assert np.abs(network.outputs(torch.from_numpy(images))[0].numpy() - expected).max() < 1e-4 * np.abs(expected).max()
    assert (network.input_names, network.output_names) == (("images",), ("scores",))
    assert network.source.location == str(tmp_path / "saved")


@needs_tensorflow
def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ModelRefused, match=r"tf2onnx cannot convert the SavedModel .*saved: .+; where the Keras model"):
        open_network(tmp_path / "saved", trust=True)
