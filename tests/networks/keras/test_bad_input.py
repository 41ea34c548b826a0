import json
import zipfile

import numpy as np
import pytest
import torch

from lissom.errors import ModelRefused, UsageError
from lissom.networks import open_network


def rewrite(source, target, change):
    """A copy of a ``.keras`` file with another configuration."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as fresh:
        for name in archive.namelist():
            content = archive.read(name)
            fresh.writestr(name, json.dumps(change(json.loads(content))) if name == "config.json" else content)
    return target


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_both_kinds_of_file_are_read(keras, classifier, tmp_path, suffix):
    classifier.save(tmp_path / f"m{suffix}")
    x = torch.randn(4, 8, 8, 3)
    network = open_network(tmp_path / f"m{suffix}")
    assert torch.allclose(network.outputs(x)[0], classifier(x, training=False), atol=1e-6)
    assert network.source.location.endswith(suffix)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", bytes(range(256)) * 4])
def test_a_file_of_anything_is_refused(keras, tmp_path, suffix, content):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(ModelRefused, match=rf"m\{suffix} is not a whole Keras model"):
        open_network(tmp_path / f"m{suffix}")


def test_a_damaged_archive_is_refused(keras, classifier, tmp_path):
    classifier.save(tmp_path / "m.keras")
    whole = (tmp_path / "m.keras").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:600] + bytes(200) + whole[800:]):
        (tmp_path / "m.keras").write_bytes(damaged)
        with pytest.raises(ModelRefused):
            open_network(tmp_path / "m.keras")
    with pytest.raises(ModelRefused, match="Keras cannot read"):
        open_network(rewrite_weights_away(keras, classifier, tmp_path))


def rewrite_weights_away(keras, classifier, tmp_path):
    classifier.save(tmp_path / "whole.keras")
    with zipfile.ZipFile(tmp_path / "whole.keras") as archive, zipfile.ZipFile(tmp_path / "bare.keras", "w") as fresh:
        fresh.writestr("config.json", archive.read("config.json"))
    return tmp_path / "bare.keras"


def test_code_in_a_file_is_run_only_on_trust(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential([keras.Input((3,)), layers.Lambda(lambda x: x * 2, name="twice"), layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelRefused, match=r"brings Python code along, in twice: .* only with  --trust"):
        open_network(tmp_path / "m.keras")
    x = torch.randn(2, 3)
    trusted = open_network(tmp_path / "m.keras", trust=True)
    assert torch.allclose(trusted.outputs(x)[0], model(x), atol=1e-6)


def test_classes_that_nobody_registered_are_named(keras, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")

    def foreign(config):
        config["config"]["layers"][1].update(module="shop.layers", class_name="Wavelet", registered_name="Shop>Wavelet")
        return config

    with pytest.raises(
        ModelRefused, match=r"nobody has registered: Wavelet\. Decorate .*register_keras_serializable.*module:callable"
    ):
        open_network(rewrite(tmp_path / "m.keras", tmp_path / "foreign.keras", foreign))


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_that_was_never_built_is_refused(keras, tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)], name="unbuilt")
    with pytest.raises(ModelRefused, match=r"unbuilt was never built.*model\.build"):
        open_network(model)
    model.save(tmp_path / "m.keras")
    with pytest.raises(ModelRefused, match="was never built"):
        open_network(tmp_path / "m.keras")


def text_classifier(config):
    """As a model with a TextVectorization in front is saved where TensorFlow runs."""
    front = {
        "module": "keras.layers",
        "class_name": "TextVectorization",
        "registered_name": None,
        "config": {"name": "words", "max_tokens": 30, "output_mode": "int", "output_sequence_length": 6, "vocabulary": None},
        "build_config": {"input_shape": [None, 1]},
    }
    inputs, *rest = config["config"]["layers"]
    inputs["config"].update(batch_shape=[None, 1], dtype="string")
    config["config"]["layers"] = [inputs, front, *rest]
    return config


def test_what_computes_only_under_tensorflow_is_left_in_front(keras, tmp_path):
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,), dtype="int64"), layers.Embedding(30, 4), layers.Flatten(), layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    network = open_network(rewrite(tmp_path / "m.keras", tmp_path / "text.keras", text_classifier))
    assert any("words (TextVectorization) computes only under TensorFlow: it was left in front" in note for note in network.notes)
    tokens = torch.randint(0, 30, (3, 6))
    assert torch.allclose(network.outputs(tokens)[0], model(tokens), atol=1e-6)


def test_such_a_layer_behind_others_is_refused(keras, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")

    def behind(config):
        config["config"]["layers"].append({"class_name": "Hashing", "config": {"name": "hash", "num_bins": 3}})
        return config

    with pytest.raises(ModelRefused, match=r"hash \(Hashing\) computes only under TensorFlow and stands behind other layers"):
        open_network(rewrite(tmp_path / "m.keras", tmp_path / "behind.keras", behind))


def test_another_backend_that_is_live_is_refused(keras, classifier, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")  # the other backends are not installed here
    with pytest.raises(ModelRefused, match=r"Keras runs on tensorflow in this process.*model\.save\(.*KERAS_BACKEND=torch"):
        open_network(classifier)


def test_a_keras_model_takes_no_weights_file(keras, classifier, tmp_path):
    with pytest.raises(UsageError, match="brings its own weights"):
        open_network(classifier, weights=tmp_path / "w.safetensors")


def test_weights_that_are_not_finite_are_refused(keras, classifier):
    classifier.get_layer("head").bias.assign(np.array([0, np.nan, 0, 0], np.float32))
    with pytest.raises(ModelRefused, match=r"NaN or infinity in head\.bias"):
        open_network(classifier)
