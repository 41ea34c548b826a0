import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from lissom.data import Data, example_inputs, load_data
from lissom.errors import DataRefused, UsageError
from lissom.network import Network, Preprocess

COUNT = 40
X = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
Y = np.arange(COUNT) % 2


def network(features=3, outputs=2, **fields):
    return Network(nn.Linear(features, outputs), (torch.zeros(2, features),), **fields)


def image_network(channels=1, side=6, preprocess=None):
    module = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, 2))
    return Network(module, (torch.zeros(2, channels, side, side),), preprocess=preprocess)


def pairs(data):
    """Every sample of train, validation and test with its label, as plain numbers, in a fixed order."""
    rows = []
    for split in (data.train, data.validation, data.test):
        for inputs, targets in split.batches(7):
            labels = [None] * len(inputs[0]) if targets is None else targets.tolist()
            rows += [(tuple(x.flatten().tolist()), label) for x, label in zip(inputs[0], labels, strict=True)]
    return sorted(rows, key=str)


EXPECTED = sorted([(tuple(x.tolist()), int(y)) for x, y in zip(X, Y, strict=True)], key=str)


class Items(Dataset):
    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return torch.from_numpy(X[index]), int(Y[index])


class Named(Items):
    def __getitem__(self, index):
        return {"label": int(Y[index]), "unused": 3, "input": X[index]}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def generator():
    for start in range(0, COUNT, 16):
        yield torch.from_numpy(X[start : start + 16]), torch.from_numpy(Y[start : start + 16])


SOURCES = {
    "arrays": lambda: (X, Y),
    "list of tensors": lambda: [torch.from_numpy(X), torch.from_numpy(Y)],
    "mapping": lambda: {"y": Y, "x": X},
    "mapping by name": lambda: {"labels": Y, "input": X},
    "float64": lambda: (X.astype(np.float64), Y.astype(np.uint8)),
    "column of labels": lambda: (X, Y[:, None]),
    "dataset": Items,
    "dataset of mappings": Named,
    "tensor dataset": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "list of samples": lambda: [(torch.from_numpy(x), y) for x, y in zip(X, Y, strict=True)],
    "loader": lambda: DataLoader(Items(), batch_size=7, shuffle=True),
    "loader of mappings": lambda: DataLoader(Named(), batch_size=7),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=7),
    "loader of ready batches": lambda: DataLoader(list(generator()), batch_size=None),
    "stream": Stream,
    "generator": generator,
}


@pytest.mark.parametrize("form", SOURCES)
def test_every_form_gives_the_same_samples(form):
    data = load_data(SOURCES[form](), network())
    assert data.task == "classify"
    assert pairs(data) == EXPECTED


@pytest.mark.parametrize("arrays", [{"x": X, "y": Y}, {"input": X, "y": Y}, {"x_train": X, "y_train": Y}])
def test_an_npz_file_gives_the_same_samples(tmp_path, arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    assert pairs(load_data(tmp_path / "data.npz", network())) == EXPECTED
    assert pairs(load_data(str(tmp_path / "data.npz"), network())) == EXPECTED


def test_the_splits_of_an_npz_file_are_kept(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=X[:20], y_train=Y[:20], x_val=X[20:30], y_val=Y[20:30], x_test=X[30:], y_test=Y[30:])
    data = load_data(tmp_path / "d.npz", network())
    assert np.array_equal(data.validation.first(99)[0][0], X[20:30])
    assert np.array_equal(data.test.first(99)[0][0], X[30:])
    assert np.array_equal(data.train.first(99)[0][0], X[:20])


def test_given_splits_may_be_named_after_the_inputs():
    data = load_data({"input_train": X[:30], "y_train": Y[:30], "input_test": X[30:], "y_test": Y[30:]}, network())
    assert np.array_equal(data.test.first(99)[0][0], X[30:])


def test_without_labels_the_task_is_to_imitate():
    for source in (X, (X,), {"x": X}, TensorDataset(torch.from_numpy(X)), DataLoader(torch.from_numpy(X), batch_size=8)):
        data = load_data(source, network())
        assert data.task == "imitate"
        assert not data.labelled
        assert len(data.train) + len(data.validation) + len(data.test) == COUNT
    assert load_data(X, network(), task="classify").task == "classify"


def test_labels_can_be_left_unread():
    data = load_data((X, Y + 100), network(), task="imitate")
    assert not data.labelled


def test_floating_labels_are_to_be_regressed():
    data = load_data((X, X[:, 0].astype(np.float64)), network(outputs=1))
    assert data.task == "regress"
    assert data.train.first(1)[1].dtype == torch.float32


def test_a_loader_of_some_samples_stands_for_those_alone():
    few = list(range(10))
    loader = DataLoader(Items(), batch_size=4, sampler=SubsetRandomSampler(few))
    assert pairs(load_data(loader, network())) == pairs(load_data(Subset(Items(), few), network()))


class Two(nn.Module):
    def forward(self, ids, mask):
        return (ids * mask).sum(1, keepdim=True).float()


def test_several_inputs_go_by_name_or_in_order():
    two = Network(Two(), (torch.zeros(2, 4, dtype=torch.int32), torch.zeros(2, 4, dtype=torch.bool)))
    ids, mask = np.arange(80).reshape(20, 4), np.ones((20, 4), bool)
    for source in ({"mask": mask, "ids": ids}, (ids, mask), [{"mask": m, "ids": i} for i, m in zip(ids, mask, strict=True)]):
        (first, second), targets = load_data(source, two).train.first(3)
        assert (first.dtype, second.dtype, targets) == (torch.int32, torch.bool, None)
        assert second.all()
        assert first.max() > 1


def test_inputs_come_in_the_dtype_that_the_network_takes():
    half = Network(nn.Linear(3, 2).half(), (torch.zeros(2, 3, dtype=torch.float16),))
    assert load_data((X, Y), half).train.first(2)[0][0].dtype == torch.float16


def test_data_may_be_fitted_to_another_network_again():
    data = load_data((X, Y), network())
    assert pairs(load_data(data, network(outputs=5))) == EXPECTED


def test_uint8_pictures_go_through_the_preprocess():
    pictures = np.random.default_rng(1).integers(0, 256, (10, 6, 6), dtype=np.uint8)
    wanted = image_network(preprocess=Preprocess(scale=1 / 255))
    for source in (pictures, pictures[..., None], pictures[:, None], TensorDataset(torch.from_numpy(pictures))):
        data = load_data(source, wanted)
        assert np.allclose(data.train.first(99)[0][0][:, 0], pictures[data.train.numbers] / 255)


def test_a_callable_is_looked_up_in_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nimport torch\nfrom torch.utils.data import TensorDataset\n"
        "def arrays():\n    return np.zeros((10, 3), np.float32), np.arange(10) % 2\n"
        "def dataset():\n    return TensorDataset(torch.zeros(10, 3), torch.arange(10) % 2)\n"
    )
    code = (
        "import torch\nfrom lissom.data import load_data\nfrom lissom.network import Network\n"
        "network = Network(torch.nn.Linear(3, 2), (torch.zeros(2, 3),))\n"
        "print([len(load_data(name, network).train) for name in ('mine:arrays', 'mine:dataset')])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == "[6, 6]\n"


def test_example_inputs_are_two_samples():
    (found,) = example_inputs((X, Y), ("input",))
    assert found.shape == (2, 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Path("missing.npz"), "no data file missing.npz: give"),
        ("missing.npz", "no data file missing.npz: give"),
        ({"images": X}, "the data holds images; the network takes input: name the arrays x"),
        ({}, "the data holds nothing; the network takes input"),
        ((X, Y, Y), "3 arrays for a network of 1 inputs"),
        ((X, Y[:-1]), "input 40, the labels 39"),
        ((X[:0], Y[:0]), "empty: give at least 5"),
        ([], "0 samples: at least 5"),
        (iter(()), "yields no batch: give at least 5"),
        (7, "data of type int: give arrays"),
        ({"x_train": X, "y_train": Y, "x_test": X}, "no labels for the test split"),
        ([torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)], "3 arrays"),
        ([(X[0], 1, 2)] * 10, "a batch holds 3 tensors; the network takes 1"),
        ([{"image": X[0]}] * 10, "a batch holds image and lacks input"),
        ((np.array(["a"] * 10), np.zeros(10)), "dtype <U1: give floats"),
        (np.float32(3), "data of type float32: give arrays"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_way_out(source, words):
    with pytest.raises(DataRefused, match=words):
        load_data(source, network())


def test_a_task_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="task is 'guess'; it must be classify, regress, imitate"):
        load_data(X, network(), task="guess")


def test_a_pickle_is_refused_and_not_run(tmp_path):
    np.savez(tmp_path / "pickled.npz", x=np.array([Touch(tmp_path / "ran")] * 6, dtype=object))
    with pytest.raises(DataRefused, match=r"pickled objects, which could run code.*numpy\.savez"):
        load_data(tmp_path / "pickled.npz", network())
    assert not (tmp_path / "ran").exists()


class Touch:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_one_bare_array_says_how_to_save_it(tmp_path):
    np.save(tmp_path / "bare.npy", X)
    with pytest.raises(DataRefused, match=r"one bare array: save it with  numpy\.savez"):
        load_data(tmp_path / "bare.npy", network())


def test_a_truncated_or_altered_npz_is_refused_or_read(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, x=X, y=Y)
    content = whole.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        broken = bytearray(content[: random.integers(len(content))] if trial % 2 else content)
        if broken:
            broken[random.integers(len(broken))] ^= 1 << random.integers(8)
        (tmp_path / "broken.npz").write_bytes(broken)
        try:
            load_data(tmp_path / "broken.npz", network())
        except DataRefused as error:
            refused += 1
            assert str(error)  # noqa: PT017 - either outcome is right; anything but DataRefused fails the test
    assert refused > 75


def test_reading_the_same_source_twice_gives_the_same_splits():
    one, two = (load_data((X, Y), network(), seed=5) for _ in range(2))
    assert isinstance(one, Data)
    for ours, theirs in zip(one.splits(), two.splits(), strict=True):
        assert np.array_equal(ours.numbers, theirs.numbers)
