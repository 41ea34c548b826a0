import pytest
import torch
from torch import nn

from lissom.errors import LissomError, ModelRefused, UsageError
from lissom.networks import open_network


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.pt", r"is a pickle, which can run any code.*module:callable.*--weights model\.pt"),
        ("model.ckpt", "is a pickle"),
        ("model.safetensors", r"holds weights and no network: give  module:callable .*--weights model\.safetensors"),
        ("gone.keras", r"no model file gone\.keras: check the path"),
        ("gone.h5", r"no model file gone\.h5: check the path"),
        ("model.tflite", r"model\.tflite has no door: give \.onnx, \.pt2"),
        ("model", r"model has no door: give \.onnx, \.pt2"),
        ("gone.pt2", r"no model file gone\.pt2: check the path"),
        ("gone.onnx", r"no model file gone\.onnx: check the path"),
    ],
)
def test_what_has_no_door_is_refused_with_the_one_that_is_open(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match=words) as refused:
        open_network(name)
    assert refused.value.exit_code == 4


def test_a_preprocess_that_does_not_exist_is_refused_before_anything_is_opened():
    with pytest.raises(UsageError, match="no preprocess 'imagenot'"):
        open_network("gone.onnx", preprocess="imagenot")


def test_a_file_takes_no_weights(tmp_path):
    (tmp_path / "m.pt2").write_bytes(b"")
    with pytest.raises(UsageError, match="brings its own weights and shapes: leave --weights out"):
        open_network(tmp_path / "m.pt2", weights="w.safetensors")


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", bytes(range(256)) * 4])
def test_a_file_of_anything_is_refused(tmp_path, suffix, content):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(LissomError) as refused:
        open_network(tmp_path / f"m{suffix}")
    assert refused.value.exit_code == 4
    assert f"m{suffix}" in str(refused.value)


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ModelRefused, match="no model file"):
        open_network(tmp_path / "m.onnx")


def test_weights_of_a_live_module_are_loaded(tmp_path):
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "w.pt")
    network = open_network(nn.Linear(3, 2), weights=tmp_path / "w.pt", input_shapes=["3"])
    assert network.outputs(torch.ones(1, 3))[0].tolist() == [[3.0, 3.0]]
