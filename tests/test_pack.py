"""pack and unpack give back what they took, and refuse what would run code or is the wrong base."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lissom import files
from lissom.codec import encode
from lissom.errors import CorruptArchive, InputRefused, ModelRefused, UsageError
from lissom.pack import open as open_archive
from lissom.pack import pack, unpack
from lissom.weights_files import BASE, read_weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.randn(60, 40),
        "a.bias": torch.randn(60).bfloat16(),
        "count": torch.tensor(5),
        "flags": torch.rand(4, 4) > 0.5,
        "empty": torch.zeros(0, 3),
    }


def same(path: Path, expected: dict[str, torch.Tensor]) -> None:
    found = torch.load(path, weights_only=True)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_pt_and_safetensors_come_back_exactly(tmp_path, state):
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "m.pt")
    written = pack(tmp_path / "m.pt", tmp_path / "m.lissom")
    assert list(written) == list(state)
    unpack(tmp_path / "m.lissom", tmp_path / "back.pt")
    same(tmp_path / "back.pt", state)
    unpack(tmp_path / "m.lissom", tmp_path / "m.safetensors")
    pack(tmp_path / "m.safetensors", tmp_path / "again.lissom", effort="fast")
    unpack(tmp_path / "again.lissom", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def test_a_difference_to_a_base_is_exact_smaller_and_tied_to_its_base(tmp_path, state):
    tuned = {
        name: value + 1e-5 * torch.randn(value.shape) if value.dtype == torch.float32 else value for name, value in state.items()
    }
    torch.save(state, tmp_path / "base.pt")
    torch.save(tuned, tmp_path / "tuned.pt")
    pack(tmp_path / "tuned.pt", tmp_path / "whole.lissom")
    pack(tmp_path / "tuned.pt", tmp_path / "delta.lissom", base=tmp_path / "base.pt")
    assert (tmp_path / "delta.lissom").stat().st_size < 0.7 * (tmp_path / "whole.lissom").stat().st_size
    unpack(tmp_path / "delta.lissom", tmp_path / "back.pt", base=tmp_path / "base.pt")
    same(tmp_path / "back.pt", tuned)
    with pytest.raises(InputRefused, match="--base"):
        unpack(tmp_path / "delta.lissom", tmp_path / "back.pt")
    with pytest.raises(InputRefused, match="not the file"):
        unpack(tmp_path / "delta.lissom", tmp_path / "back.pt", base=tmp_path / "tuned.pt")


def test_a_difference_to_a_tensor_that_the_base_lacks_is_refused(tmp_path):
    base = tmp_path / "base.pt"
    torch.save({"other": torch.ones(3)}, base)
    (tmp_path / "d.lissom").write_bytes(encode({"+w": np.zeros(3, np.int32)}, metadata={BASE: files.digest(base)}))
    with pytest.raises(CorruptArchive, match="a difference to 'w', and the base has no such tensor"):
        unpack(tmp_path / "d.lissom", tmp_path / "back.pt", base=base)


def test_safetensors_are_mapped_and_a_dtype_that_an_archive_lacks_is_refused_by_its_name(tmp_path):
    def written(header: str, data: bytes) -> Path:
        path = tmp_path / "m.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)
        return path

    odd = '{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"F32","shape":[2],"data_offsets":[3,11]}}'
    found = read_weights(written(odd, b"123" + np.float32([1.5, -2]).tobytes()), graph=False).tensors
    assert not found["a"].flags.writeable
    assert found["b"].tolist() == [1.5, -2.0]
    assert found["b"].flags.aligned
    with pytest.raises(ModelRefused, match="a has the dtype F8_E8M0, which an archive cannot hold"):
        pack(written('{"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}', b"1"), tmp_path / "m.lissom")
    with pytest.raises(InputRefused, match=r"cannot read .*none\.safetensors"):
        pack(tmp_path / "none.safetensors", tmp_path / "m.lissom")


def test_lossy_biases_keep_short_mantissas_and_take_fewer_bytes(tmp_path):
    values = {"norm.running_var": torch.rand(4000) * 10.0 ** torch.randint(-6, 3, (4000,)), "norm.bias": torch.randn(4000)}
    torch.save(values, tmp_path / "m.pt")
    pack(tmp_path / "m.pt", tmp_path / "exact.lissom")
    pack(tmp_path / "m.pt", tmp_path / "lossy.lissom", quality=30.0)
    assert (tmp_path / "lossy.lissom").stat().st_size < 0.6 * (tmp_path / "exact.lissom").stat().st_size
    archive = open_archive(tmp_path / "lossy.lissom")
    for name, value in values.items():
        np.testing.assert_allclose(archive[name], value.numpy(), rtol=2**-9)


def test_quality_keeps_its_signal_to_noise_ratio(tmp_path):
    weights = torch.randn(128, 64)
    torch.save({"w": weights}, tmp_path / "m.pt")
    sizes = []
    for quality in (20.0, 40.0):
        pack(tmp_path / "m.pt", tmp_path / "m.lissom", quality=quality)
        values = np.asarray(open_archive(tmp_path / "m.lissom")["w"].dense())
        noise = float(((values - weights.numpy()) ** 2).mean())
        assert noise <= float((weights**2).mean()) / 10 ** (quality / 10)
        sizes.append((tmp_path / "m.lissom").stat().st_size)
    assert sizes[0] < sizes[1] < weights.numel() * 4 / 4


def test_an_onnx_file_comes_back_to_the_byte(tmp_path):
    from onnx import helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32), "w")
    value = [helper.make_tensor_value_info(name, 1, ["N", size]) for name, size in (("x", 50), ("y", 60))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", value[:1], value[1:], [weight])
    data = helper.make_model(graph).SerializeToString(deterministic=True)
    (tmp_path / "m.onnx").write_bytes(data)
    pack(tmp_path / "m.onnx", tmp_path / "m.lissom")
    unpack(tmp_path / "m.lissom", tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == data
    pack(tmp_path / "m.onnx", tmp_path / "w.lissom", weights_only=True)
    with pytest.raises(InputRefused, match="no graph"):
        unpack(tmp_path / "w.lissom", tmp_path / "none.onnx")


def test_what_cannot_be_read_or_written_is_refused(tmp_path):
    (tmp_path / "code.pt").write_bytes(pickle.dumps(pytest.raises))
    with pytest.raises(ModelRefused):
        pack(tmp_path / "code.pt", tmp_path / "m.lissom")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelRefused, match="safetensors"):
        pack(tmp_path / "bad.safetensors", tmp_path / "m.lissom")
    with pytest.raises(ModelRefused, match="give one of"):
        pack(tmp_path / "m.zip", tmp_path / "m.lissom")
    with pytest.raises(UsageError, match="unpack writes"):
        unpack(tmp_path / "m.lissom", tmp_path / "m.zip")
    torch.save({"w": torch.full((40, 40), float("nan"))}, tmp_path / "nan.pt")
    with pytest.raises(ModelRefused, match="w holds NaN"):
        pack(tmp_path / "nan.pt", tmp_path / "m.lissom", quality=30.0)
    (tmp_path / "empty.lissom").write_bytes(b"")
    with pytest.raises(CorruptArchive, match="empty"):
        open_archive(tmp_path / "empty.lissom")
    assert not (tmp_path / "m.lissom").exists()


def test_a_drop_that_is_allowed_makes_the_archive_small_and_is_kept(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(400, 16)
    labels = (inputs[:, :4].argmax(1)).numpy()
    module = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(150):
        torch.nn.functional.cross_entropy(module(inputs), torch.from_numpy(labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(module.state_dict(), tmp_path / "m.pt")
    module.example_inputs = (torch.zeros(2, 16),)
    data = (inputs.numpy(), labels)
    pack(tmp_path / "m.pt", tmp_path / "m.lissom", data=data, max_drop=0.02, network=module)
    assert (tmp_path / "m.lissom").stat().st_size < (tmp_path / "m.pt").stat().st_size / 5
    unpack(tmp_path / "m.lissom", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt")
    assert not torch.equal(back["0.bias"], module[0].bias)  # it makes up for what the levels do to the mean
    before = (module(inputs).argmax(1).numpy() == labels).mean()
    module.load_state_dict(back)
    assert (module(inputs).argmax(1).numpy() == labels).mean() > before - 0.05
    with pytest.raises(UsageError, match="go together"):
        pack(tmp_path / "m.pt", tmp_path / "m.lissom", max_drop=0.02)
    with pytest.raises(UsageError, match="exclude each other"):
        pack(tmp_path / "m.pt", tmp_path / "m.lissom", max_drop=0.02, data=data, quality=30.0)


def test_a_keras_file_comes_back_with_its_model_and_every_weight(tmp_path):
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(0)
    arrays = {"dense/vars/0": random.normal(size=(20, 30)).astype(np.float32), "dense/vars/1": np.ones(30, np.float16)}
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
    members = {"config.json": b'{"class_name": "Sequential"}', "model.weights.h5": (tmp_path / "w.h5").read_bytes()}
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    written = pack(tmp_path / "m.keras", tmp_path / "m.lissom")
    assert {name: (array == arrays[name]).all() for name, array in written.items()} == dict.fromkeys(arrays, True)
    unpack(tmp_path / "m.lissom", tmp_path / "back.keras")
    with zipfile.ZipFile(tmp_path / "back.keras") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == members
    with pytest.raises(InputRefused, match="no graph"):
        unpack(tmp_path / "m.lissom", tmp_path / "none.onnx")
    (tmp_path / "bad.keras").write_bytes(b"PK")
    with pytest.raises(ModelRefused, match=r"not a \.keras file"):
        pack(tmp_path / "bad.keras", tmp_path / "m.lissom")
