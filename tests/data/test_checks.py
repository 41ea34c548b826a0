import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lissom.data import load_data
from lissom.errors import DataRefused
from lissom.network import Network, Preprocess

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = np.arange(20) % 4


def network(outputs=4):
    return Network(nn.Linear(3, outputs), (torch.zeros(2, 3),))


def read_whole(data):
    return [batch for split in data.splits() for batch in split.batches(3)]


def spoiled(value, at=13):
    x = X.copy()
    x[at, 1] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_in_the_inputs_is_refused(value):
    with pytest.raises(DataRefused, match=r"input holds NaN or infinity in the \w+ split: remove those samples"):
        load_data((spoiled(value), Y), network())


def test_nan_in_the_targets_is_refused():
    with pytest.raises(DataRefused, match=r"the targets holds? NaN or infinity in the \w+ split"):
        load_data((X, spoiled(np.nan)[:, 1]), network(1))


def test_nan_in_a_dataset_is_refused_when_it_is_read():
    data = load_data(TensorDataset(torch.from_numpy(spoiled(np.nan)), torch.from_numpy(Y)), network())
    with pytest.raises(DataRefused, match="input holds NaN or infinity"):
        read_whole(data)


@pytest.mark.parametrize(("label", "outputs"), [(4, 4), (-1, 4), (200, 10)])
def test_a_label_out_of_range_is_refused(label, outputs):
    y = Y.copy()
    y[7] = label
    words = rf"label {label} in the \w+ split; the network has {outputs} classes, 0 to {outputs - 1}: number the classes from 0"
    with pytest.raises(DataRefused, match=words):
        load_data((X, y), network(outputs))
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    with pytest.raises(DataRefused, match=words):
        read_whole(load_data(data, network(outputs)))


def test_classes_for_a_network_of_one_output_are_refused():
    with pytest.raises(DataRefused, match="the network has 1 class, 0 to 0: give floating targets"):
        load_data((X, Y), network(1))


def test_one_hot_labels_are_refused_with_the_way_out():
    with pytest.raises(DataRefused, match=r"labels of shape \[4\] per sample.*y\.argmax\(1\)"):
        load_data((X, np.eye(4, dtype=np.int64)[Y]), network())
    with pytest.raises(DataRefused, match=r"floating targets .* cannot be classes.*y\.argmax\(1\)"):
        load_data((X, np.eye(4, dtype=np.float32)[Y]), network(), task="classify")


def test_targets_of_another_shape_are_refused():
    with pytest.raises(DataRefused, match=r"targets of shape \[3\] per sample .*; the network's output has \[4\]"):
        load_data((X, X), network(4))


@pytest.mark.parametrize("shape", [(20, 4), (20, 3, 1), (20,)])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(DataRefused) as refused:
        load_data(np.zeros(shape, np.float32), network())
    assert f"input has shape {list(shape[1:])} per sample" in str(refused.value)
    assert "the network takes [3]: reshape the data" in str(refused.value)


def test_a_length_that_may_differ_fits_any():
    module = nn.Conv1d(2, 4, 3, padding=1)
    free = Network(module, (torch.zeros(2, 2, 8),), dynamic_axes={"input": {2: "length"}})
    data = load_data(np.zeros((10, 2, 50), np.float32), free)
    assert data.train.first(1)[0][0].shape == (1, 2, 50)
    with pytest.raises(DataRefused, match=r"the network takes \[2, 'any'\]"):
        load_data(np.zeros((10, 3, 50), np.float32), free)


def pictures(preprocess=None):
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    return Network(module, (torch.zeros(2, 1, 8, 8),), preprocess=preprocess)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: TensorDataset(torch.from_numpy(x))])
def test_uint8_images_without_a_preprocess_are_refused(wrap):
    with pytest.raises(
        DataRefused, match=r"input holds whole numbers .*the network takes float32: uint8 images .*--preprocess imagenet"
    ):
        load_data(wrap(np.zeros((10, 1, 8, 8), np.uint8)), pictures())


def test_an_image_smaller_than_the_crop_is_refused():
    with pytest.raises(DataRefused, match="an image of 8x8 pixels is smaller than the crop of 16x16"):
        load_data(np.zeros((10, 8, 8), np.uint8), pictures(Preprocess(crop=(16, 16))))


def test_grey_images_for_three_means_are_refused():
    with pytest.raises(DataRefused, match=r"images of shape \[8, 8\]; the preprocess has 3 means"):
        load_data(np.zeros((10, 8, 8), np.uint8), pictures(Preprocess(mean=(1.0, 2.0, 3.0))))


def test_floats_for_a_network_of_numbers_are_refused():
    embedding = Network(nn.Embedding(9, 4), (torch.zeros(2, 3, dtype=torch.int64),))
    with pytest.raises(DataRefused, match=r"input holds floats .*the network takes int64: give whole numbers"):
        load_data(X, embedding)


def test_targets_of_the_users_own_kind_are_left_alone():
    y = np.eye(4, dtype=np.int64)[Y] * 50
    data = load_data((X, y), network(), check_targets=False)
    targets = data.train.first(99)[1]
    assert targets.tolist() == y[data.train.numbers].tolist()
