import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

from lissom import edits
from lissom.errors import ModelRefused
from lissom.networks import open_network

BATCH = Dim("batch", min=1, max=64)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.head = nn.Linear(144, 3)
        self.register_buffer("shift", torch.ones(3))
        self.scale = torch.tensor(2.0)  # a constant that is neither parameter nor buffer

    def forward(self, image):
        features = self.norm(self.conv(image)).relu().view(image.shape[0], -1)
        return {"logits": self.head(self.drop(features)) * self.scale + self.shift, "features": features}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.block(self.embedding(ids)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)

    def forward(self, sound, scale=2.0):
        return self.lstm(sound)[0][:, -1] * scale


def settle(module, *inputs):
    """Statistics and weights that differ from the initial ones, then eval mode."""
    module.train()
    with torch.no_grad():
        module(*inputs)
    return module.eval()


CASES = {
    "convolutional": (Convolutional, lambda n: torch.randn(n, 1, 8, 8)),
    "tied": (Tied, lambda n: torch.randint(11, (n, 6))),
    "recurrent": (Recurrent, lambda n: torch.randn(n, 7, 3)),
}


def written(path, case, *, batch=2, dynamic=True):
    build, inputs = CASES[case]
    module = settle(build(), inputs(4))
    shapes = ({0: BATCH}, *([None] * (case == "recurrent"))) if dynamic else None
    arguments = (inputs(batch), *((2.0,) if case == "recurrent" else ()))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The tensor attributes self.lstm._flat_weights"
        )  # torch's own list of an LSTM's weights
        save(export(module, arguments, dynamic_shapes=shapes), path)
    return module, inputs


@pytest.mark.parametrize("case", CASES)
def test_the_file_answers_as_the_module_did(tmp_path, case):
    module, inputs = written(tmp_path / "m.pt2", case)
    network = open_network(tmp_path / "m.pt2")
    for size in (1, 2, 5):
        given = inputs(size)
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(module(given))
        for ours, theirs in zip(network.outputs(given), expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert network.source.kind == "pt2"
    assert any("normalisation keeps its statistics and there is no dropout" in note for note in network.notes)


@pytest.mark.parametrize("case", CASES)
def test_tensors_keep_the_names_that_they_had(tmp_path, case):
    module, _ = written(tmp_path / "m.pt2", case)
    network = open_network(tmp_path / "m.pt2")
    ours, theirs = network.module.state_dict(), module.state_dict()
    assert set(theirs) <= set(ours) | {"norm.num_batches_tracked"}
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items() if name in ours)
    assert {name for name, _ in network.parameters()} == {name for name, _ in module.named_parameters()}


def test_tied_weights_stay_tied(tmp_path):
    written(tmp_path / "m.pt2", "tied")
    module = open_network(tmp_path / "m.pt2").module
    assert set(edits.aliases(module)["head.weight"]) == {"head.weight", "embedding.weight"}


@pytest.mark.parametrize("case", CASES)
def test_parameters_train_and_statistics_stay(tmp_path, case):
    _, inputs = written(tmp_path / "m.pt2", case)
    module = open_network(tmp_path / "m.pt2").module
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.train()
    losses = []
    given = inputs(8)
    for _ in range(12):
        output = torch.utils._pytree.tree_leaves(module(given))[0]
        loss = output.square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())


@pytest.mark.parametrize("case", CASES)
def test_edits_act_on_the_graph_and_copies_are_apart(tmp_path, case):
    _, inputs = written(tmp_path / "m.pt2", case)
    network = open_network(tmp_path / "m.pt2")
    given = inputs(3)
    before = network.outputs(given)[0]
    copy = edits.copy(network)
    for name, weight in list(edits.weights(copy.module)):
        edits.attach(copy.module, name, mask=torch.zeros_like(weight, dtype=torch.bool))
    masked = edits.copy(copy).outputs(given)[0]
    assert not torch.equal(masked, before)
    assert torch.equal(copy.outputs(given)[0], masked)
    assert torch.equal(network.outputs(given)[0], before)
    assert torch.equal(edits.bake(edits.copy(copy).module)(given)["logits"] if case == "convolutional" else masked, masked)


@pytest.mark.parametrize("case", CASES)
def test_the_network_can_be_exported_again(tmp_path, case):
    _, inputs = written(tmp_path / "m.pt2", case)
    network = open_network(tmp_path / "m.pt2")
    given = inputs(4)
    again = export(network.module, (given,), dynamic_shapes=(({0: Dim.DYNAMIC},),), strict=False)
    other = inputs(7)
    found = torch.utils._pytree.tree_leaves(again.module()(other))[0]
    assert torch.allclose(found, network.outputs(other)[0], rtol=1e-5, atol=1e-6)


def test_a_length_that_may_differ_is_a_dynamic_axis(tmp_path):
    module = nn.Conv1d(2, 3, 3, padding=1).eval()
    save(
        export(module, (torch.zeros(2, 2, 9),), dynamic_shapes=({0: BATCH, 2: Dim("length", min=4, max=99)},)), tmp_path / "m.pt2"
    )
    network = open_network(tmp_path / "m.pt2")
    assert list(network.dynamic_axes[network.input_names[0]]) == [2]
    assert network.outputs(torch.zeros(3, 2, 50))[0].shape == (3, 3, 50)


def test_a_fixed_batch_is_taken_where_the_graph_does_not_depend_on_it(tmp_path):
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    save(export(module, (torch.ones(1, 3),)), tmp_path / "m.pt2")
    network = open_network(tmp_path / "m.pt2")
    given = torch.randn(9, 3)
    assert torch.allclose(network.outputs(given)[0], module(given), atol=1e-6)
    assert any("fixed batch" in note for note in network.notes)


def test_a_fixed_batch_is_refused_where_it_is_written_into_the_graph(tmp_path):
    written(tmp_path / "m.pt2", "convolutional", batch=1, dynamic=False)
    with pytest.raises(ModelRefused, match=r"exported for a batch of 1 and nothing else: .*dynamic_shapes=\{'x': \{0:"):
        open_network(tmp_path / "m.pt2")


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(3)])
def test_a_program_exported_in_training_mode_is_refused(tmp_path, layer):
    save(
        export(nn.Sequential(nn.Linear(3, 3), layer).train(), (torch.ones(2, 3),), dynamic_shapes=({0: BATCH},)),
        tmp_path / "m.pt2",
    )
    with pytest.raises(ModelRefused, match=r"exported in training mode .*: call model\.eval\(\) before"):
        open_network(tmp_path / "m.pt2")


def test_nan_in_the_file_is_refused(tmp_path):
    module = nn.Linear(3, 2)
    module.bias.data[0] = float("nan")
    save(export(module, (torch.ones(2, 3),), dynamic_shapes=({0: BATCH},)), tmp_path / "m.pt2")
    with pytest.raises(ModelRefused, match="NaN or infinity in bias"):
        open_network(tmp_path / "m.pt2")


def altered(path, change):
    """The archive with its records changed by ``change(records)``."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    records = change(records) or records
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)


class Touch:
    """A pickle that writes a file when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def record(records, ending):
    return next(name for name in records if name.endswith(ending))


def edit_json(ending, change):
    def edit(records):
        name = record(records, ending)
        content = json.loads(records[name])
        change(content)
        records[name] = json.dumps(content).encode()

    return edit


def replace_record(ending, make):
    def edit(records):
        records[record(records, ending)] = make()

    return edit


def pickled():
    buffer = io.BytesIO()
    torch.save(Touch(), buffer)
    return buffer.getvalue()


def call(target):
    def change(content):
        content["graph_module"]["graph"]["nodes"][-1]["target"] = target

    return edit_json("models/model.json", change)


def length(text):
    def change(content):
        for value in content["graph_module"]["graph"]["tensor_values"].values():
            for size in value["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = text

    return edit_json("models/model.json", change)


def weights_are_pickled(records):
    edit_json("weights_config.json", lambda content: content["config"]["head.bias"].update(use_pickle=True))(records)
    entry = json.loads(records[record(records, "weights_config.json")])["config"]["head.bias"]
    records[record(records, f"weights/{entry['path_name']}")] = pickled()


def constant_is_an_object(records):
    edit_json("constants_config.json", lambda content: next(iter(content["config"].values())).update(path_name="opaque_obj_0"))(
        records
    )
    records[record(records, "tensor_0").replace("tensor_0", "opaque_obj_0")] = pickle.dumps(Touch())


def structure(context):
    text = json.dumps([1, {"type": "builtins.dict", "context": json.dumps(context), "children_spec": []}])

    def change(content):
        for call in content["graph_module"]["module_call_graph"]:
            if call["signature"]:
                call["signature"]["out_spec"] = text.replace("_", "\\u005f")  # as JSON allows

    return edit_json("models/model.json", change)


HOSTILE = {
    "a structure that imports a module": structure({"__enum__": True, "fqn": "mine:Name", "name": "A"}),
    "a structure with a factory": structure({"default_factory_module": "os", "default_factory_name": "abort"}),
    "pickled sample inputs": replace_record("sample_inputs/model.pt", pickled),
    "pickled weights": weights_are_pickled,
    "pickled constant": constant_is_an_object,
    "an operator of the system": call("torch.os.system"),
    "an operator of torch itself": call("torch.load"),
    "an operator that writes files": call("torch.ops.aten.from_file.default"),
    "an operator of another library": call("torch.ops.mine.run.default"),
    "an operator that is none": call("torch.ops.aten.__class__"),
    "a call of anything": call("_operator.methodcaller"),
    "a length that is code": length("__import__('pathlib').Path('ran').touch()"),
    "a length that opens files": length("open(s0)"),
    "a length with an attribute": length("s0.real"),
    "a length of brackets": length("[s0][0]"),
    "a registered function": call("#mine"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_is_refused_and_runs_nothing(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    written("m.pt2", "convolutional")
    altered("m.pt2", HOSTILE[attack])
    with pytest.raises(ModelRefused, match=r"m\.pt2 is refused: .*lissom runs no code from files"):
        open_network("m.pt2")
    assert not Path("ran").exists()


def test_compiled_libraries_in_the_file_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, inputs = written("m.pt2", "convolutional")
    root = zipfile.ZipFile("m.pt2").namelist()[0].partition("/")[0]
    altered("m.pt2", lambda records: {**records, f"{root}/data/aotinductor/model/x.so": b"\x7fELF"})
    given = inputs(2)
    assert torch.allclose(open_network("m.pt2").outputs(given)[0], module(given)["logits"], atol=1e-6)


def test_compressed_records_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/m.json", b" " * 10_000_000)
    with pytest.raises(ModelRefused, match=r"the record m/models/m\.json is compressed"):
        open_network(tmp_path / "m.pt2")


def test_a_truncated_or_altered_file_is_refused_or_read(tmp_path):
    written(tmp_path / "m.pt2", "convolutional")
    content = (tmp_path / "m.pt2").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(40):
        broken = bytearray(content[: random.integers(len(content))] if trial % 2 else content)
        if broken:
            broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        (tmp_path / "broken.pt2").write_bytes(broken)
        try:
            open_network(tmp_path / "broken.pt2")
        except ModelRefused:
            refused += 1
    assert refused >= 20
