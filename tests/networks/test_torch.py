import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lissom.errors import ModelRefused, UsageError
from lissom.network import Network, Preprocess
from lissom.networks import open_network
from lissom.networks.examples import from_shape
from lissom.networks.weights import load_weights, read_weights

MINE = """
import torch
from torch import nn
from lissom.network import Network, Preprocess

def plain():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def ready():
    return Network(plain(), (torch.zeros(2, 3),), input_names=("point",), preprocess=Preprocess(scale=0.5))

def telling():
    module = plain()
    module.example_inputs = torch.zeros(1, 3)
    return module

def needy(size):
    return nn.Linear(size, 2)

def lazy():
    import beside
    return beside.build()

def dictionary():
    return {}

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a module of the user's, as the current folder."""
    (tmp_path / "my_networks.py").write_text(MINE)
    (tmp_path / "beside.py").write_text("from my_networks import telling as build\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_networks", "beside"):
        sys.modules.pop(name, None)


def other_weights():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).state_dict()


def test_a_callable_may_give_a_network(mine):
    network = open_network("my_networks:ready")
    assert network.input_names == ("point",)
    assert network.preprocess == Preprocess(scale=0.5)
    assert (network.source.kind, network.source.location) == ("module", "my_networks:ready")
    assert str(mine) not in sys.path


def test_a_plain_module_takes_its_inputs_from_shapes_itself_or_the_data(mine):
    np.savez(mine / "data.npz", x=np.ones((10, 3), np.float32))
    for network in (
        open_network("my_networks:plain", input_shapes=["3"]),
        open_network("my_networks:plain", input_shapes=[(3,)]),
        open_network("my_networks:telling"),
        open_network("my_networks:lazy"),
        open_network("my_networks:plain", data=mine / "data.npz"),
    ):
        assert network.example_inputs[0].shape == (2, 3)
        assert network.outputs(torch.zeros(5, 3))[0].shape == (5, 2)


def test_a_module_that_nobody_tells_about_is_refused_with_the_ways_out(mine):
    with pytest.raises(ModelRefused, match=r"nothing says what Sequential takes: .*--input 1x28x28.*example_inputs"):
        open_network("my_networks:plain")


@pytest.mark.parametrize("callable_", ["my_networks:plain", "my_networks:ready"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "checkpoint.pt", "parallel.pt", "compiled.bin"])
def test_weights_fill_the_module(mine, callable_, name):
    state = other_weights()
    {
        "w.safetensors": lambda: save_file(state, name),
        "w.pt": lambda: torch.save(state, name),
        "w.pth": lambda: torch.save(collections.OrderedDict(state), name),
        "checkpoint.pt": lambda: torch.save({"epoch": 3, "model_state_dict": state, "loss": 0.1}, name),
        "parallel.pt": lambda: torch.save({f"module.{key}": value for key, value in state.items()}, name),
        "compiled.bin": lambda: torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, name),
    }[name]()
    network = open_network(callable_, weights=name, input_shapes=["3"])
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.module.state_dict().items())


def test_weights_that_do_not_fit_are_named_in_one_sentence(mine):
    state = other_weights()
    save_file(
        {"0.weight": state["0.weight"], "0.bias": torch.zeros(5), "2.weight": state["2.weight"], "extra": torch.ones(1)},
        "w.safetensors",
    )
    with pytest.raises(ModelRefused) as refused:
        open_network("my_networks:telling", weights="w.safetensors")
    message = str(refused.value)
    assert "w.safetensors for my_networks:telling does not fit the network" in message
    assert "missing 2.bias; unexpected extra; of another shape: 0.bias is [5] and should be [4]" in message
    assert message.count("\n") == 0


def test_nan_in_the_weights_is_refused(mine):
    state = {**other_weights(), "2.bias": torch.tensor([0.0, float("nan")])}
    save_file(state, "w.safetensors")
    for name in ("my_networks:telling", "my_networks:ready"):
        with pytest.raises(ModelRefused, match=r"NaN or infinity in 2\.bias"):
            open_network(name, weights="w.safetensors")


def test_one_name_of_a_tied_tensor_is_enough():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

    module = Tied()
    load_weights(module, {"embedding.weight": torch.full((5, 3), 2.0)}, "w")
    assert module.head.weight is module.embedding.weight
    assert module.head.weight.eq(2).all()


def test_batch_norm_without_a_count_of_batches_loads():
    module = nn.BatchNorm1d(3)
    load_weights(module, {key: value + 1 for key, value in module.state_dict().items() if key != "num_batches_tracked"}, "w")
    assert module.running_mean.eq(1).all()


class Touch:
    """A pickle that writes a file when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("content", [Touch(), {"weight": Touch()}, nn.Linear(3, 2)])
def test_a_pickle_that_needs_code_is_refused_and_not_run(mine, content):
    torch.save(content, "w.pt")
    with pytest.raises(ModelRefused, match=r"w\.pt is a pickle that needs code.*safetensors\.torch\.save_file"):
        read_weights("w.pt")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.safetensors", b"", "not a whole .safetensors file"),
        ("w.safetensors", b"\xff" * 100, "not a whole .safetensors file"),
        ("w.pt", b"", "not a whole file of torch.save"),
        ("w.pt", b"hello", "not a whole file of torch.save"),
        ("w.pt", b"PK\x03\x04 and no more", "not a whole file of torch.save"),
        ("w.onnx", b"", "no weights file that lissom reads: give one of .safetensors, .pt"),
    ],
)
def test_damaged_weights_are_refused(mine, name, content, words):
    Path(name).write_bytes(content)
    with pytest.raises(ModelRefused, match=words.replace(".", r"\.")):
        read_weights(name)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_truncated_weights_are_refused(mine, name):
    state = other_weights()
    save_file(state, name) if name.endswith("s") else torch.save(state, name)
    whole = Path(name).read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        Path(name).write_bytes(whole[:length])
        with pytest.raises(ModelRefused, match="not a whole"):
            read_weights(name)


def test_missing_weights_are_refused(mine):
    with pytest.raises(ModelRefused, match=r"no weights file gone\.pt: give a \.safetensors file"):
        open_network("my_networks:telling", weights="gone.pt")


def test_a_file_without_a_state_dict_is_refused(mine):
    torch.save({"epoch": 3}, "w.pt")
    with pytest.raises(ModelRefused, match=r"holds no state dict: save one with  torch\.save"):
        read_weights("w.pt")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("my_networks:gone", UsageError, "my_networks has no 'gone'; it has Network, Preprocess"),
        ("nowhere_at_all:build", UsageError, "no module 'nowhere_at_all'"),
        ("my_networks:number", UsageError, "is no callable but of type int: name a function"),
        ("my_networks:needy", UsageError, "cannot be called without arguments .*'size'"),
        ("my_networks:dictionary", ModelRefused, "gives a dict: it must be an nn.Module, a keras.Model or a lissom.Network"),
    ],
)
def test_a_callable_that_gives_no_network_is_refused(mine, name, error, words):
    with pytest.raises(error, match=words):
        open_network(name)


@pytest.mark.parametrize("text", ["0x3", "a", "3x", "3:complex", "-1", "3::int64"])
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="write the lengths of one sample, without the batch, such as 1x28x28"):
        from_shape(text)


def test_a_live_module_or_network_is_taken_as_it_is():
    module = nn.Linear(3, 2)
    assert open_network(module, input_shapes=["3"]).module is module
    network = Network(module, (torch.zeros(2, 3),))
    assert open_network(network, preprocess="unit").preprocess == Preprocess(scale=1 / 255)


@pytest.mark.parametrize(("name", "parameters"), [("lenet5", 431_080), ("lenet_300_100", 266_610)])
def test_the_networks_of_the_readme_open(name, parameters):
    root = Path(__file__).parents[2]
    code = (
        f"from lissom import open_network\nnetwork = open_network('examples.lenet:{name}')\n"
        "print(sum(tensor.numel() for _, tensor in network.parameters()), network.outputs(*network.example_inputs)[0].shape)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == f"{parameters} torch.Size([2, 10])\n"
