"""load(): a folder, an archive or weights become a network again; what is none of these is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lissom
from lissom import edits
from lissom.codec import encode
from lissom.deploy import deploy
from lissom.errors import CorruptArchive, ModelRefused, UsageError
from lissom.loading import STRUCTURE_KEY, open_any, structure_text, to_run


def build() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def network() -> lissom.Network:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    made = lissom.Network(module, (torch.zeros(2, 6),))
    edits.attach(made.module, "0.weight", mask=torch.rand(16, 6) > 0.5)
    return made


@pytest.fixture(scope="module")
def archive(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("loading") / "model.lissom"
    path.write_bytes(deploy(network).archive("fast", structure_text(network)))
    return path


INPUTS = torch.linspace(-1, 1, 24).reshape(4, 6)


def test_an_archive_is_a_network_by_its_own_graph(network, archive):
    loaded = lissom.load(archive)
    assert torch.allclose(loaded.outputs(INPUTS)[0], network.outputs(INPUTS)[0], atol=1e-6)


def test_with_the_users_class_it_is_the_users_module_with_its_zeros_kept(network, archive):
    for path in (archive, archive.parent):
        if path.is_dir():
            save_file({name: t.contiguous() for name, t in edits.state_dict(network.module).items()}, path / "model.safetensors")
        loaded = lissom.load(path, build=build)
        assert isinstance(loaded.module, nn.Sequential)
        assert torch.equal(loaded.outputs(INPUTS)[0], network.outputs(INPUTS)[0])
        edit = edits.edit_of(loaded.module, "0.weight")
        assert edit is not None
        assert torch.equal(edit.mask, edits.value(network.module, "0.weight") != 0)
        bare = lissom.load(path, build=build, keep_zeros=False)
        assert edits.edit_of(bare.module, "0.weight") is None


def test_it_runs_in_the_runtime_too(network, archive):
    assert torch.allclose(to_run(str(archive)).outputs(INPUTS)[0], network.outputs(INPUTS)[0], atol=1e-5)


def test_cut_shapes_are_cut_again(job, classifier, tmp_path):
    cut = lissom.PruneChannels(ratio=0.5).apply(classifier, job)
    state = {name: tensor.contiguous() for name, tensor in edits.state_dict(cut.module).items()}
    save_file(state, tmp_path / "model.safetensors", structure_text(cut))
    loaded = lissom.load(
        tmp_path / "model.safetensors",
        build=lambda: lissom.Network(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), (torch.zeros(2, 12),)),
    )
    assert loaded.module[0].weight.shape == (16, 12)
    x = torch.ones(2, 12)
    assert torch.equal(loaded.outputs(x)[0], cut.outputs(x)[0])


def test_weights_alone_need_a_class(tmp_path):
    weights = tmp_path / "weights.lissom"
    weights.write_bytes(encode({"0.weight": np.ones((2, 2), np.float32)}))
    with pytest.raises(UsageError, match=r"holds weights and no graph: give  load\(path, build=…\)"):
        lissom.load(weights)


@pytest.mark.parametrize("name", ["none.lissom", "none.safetensors"])
def test_what_is_not_there_is_said(name, tmp_path):
    with pytest.raises(ModelRefused, match=f"{name}"):
        lissom.load(tmp_path / name, build=lambda: lissom.Network(build(), (torch.zeros(2, 6),)))


def test_damage_is_refused(archive, tmp_path):
    content = archive.read_bytes()
    for name, damaged in (("cut", content[: len(content) // 2]), ("other", b"PK" + content), ("empty", b"")):
        (tmp_path / f"{name}.lissom").write_bytes(damaged)
        with pytest.raises(CorruptArchive):
            open_any(str(tmp_path / f"{name}.lissom"))
    (tmp_path / "weights.safetensors").write_bytes(b"\x08")
    made = lissom.Network(build(), (torch.zeros(2, 6),))
    with pytest.raises(ModelRefused, match=r"is not a readable \.safetensors file"):
        lissom.load(tmp_path / "weights.safetensors", build=lambda: made)
    save_file(build().state_dict(), tmp_path / "structure.safetensors", {STRUCTURE_KEY: "{"})
    with pytest.raises(CorruptArchive, match="is not JSON"):
        lissom.load(tmp_path / "structure.safetensors", build=lambda: made)


def test_a_class_of_other_shapes_is_refused(archive):
    with pytest.raises(ModelRefused, match=r"0\.weight"):
        lissom.load(archive, build=lambda: lissom.Network(nn.Sequential(nn.Linear(6, 9)), (torch.zeros(2, 6),)))


def test_nothing_is_written_about_shapes_that_were_not_cut(network):
    assert structure_text(network) == {}
