import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissom.errors import DataRefused, ModelRefused, UsageError
from lissom.network import Network, Preprocess, Source, flatten_outputs, forward_names

checked = settings(deadline=None, derandomize=True, max_examples=60)


class Answers(nn.Module):
    """Two inputs, one of them optional, and outputs in a nest."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.drop = nn.Dropout()

    def forward(self, image, /, mask, scale=None):
        return {"logits": self.drop(self.layer(image)) * mask, "rest": [(image, None), "text"]}


def test_names_follow_from_the_module():
    network = Network(Answers(), (torch.zeros(2, 3), torch.ones(2, 1)))
    assert network.input_names == ("image", "mask")
    assert network.output_names == ("output_0", "output_1")
    assert forward_names(Answers()) == ("image", "mask")
    assert not network.module.training


def test_a_batch_of_one_is_doubled():
    assert Network(nn.Linear(3, 2), (torch.ones(1, 3),)).example_inputs[0].tolist() == [[1.0] * 3] * 2
    assert Network(nn.Linear(3, 2), (torch.ones(5, 3),)).example_inputs[0].shape == (5, 3)


def test_outputs_are_those_of_eval_mode_without_gradients_and_leave_the_mode_alone():
    network = Network(Answers(), (torch.zeros(2, 3), torch.ones(2, 1)))
    network.module.train()
    one, two = (network.outputs(torch.ones(2, 3), torch.ones(2, 1))[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not one.requires_grad
    assert network.module.training


def test_outputs_of_any_nest_come_in_order():
    leaves = [torch.tensor(float(number)) for number in range(4)]
    nest = {"b": leaves[0], "a": [(leaves[1], 3, None), {"c": leaves[2]}], "z": leaves[3]}
    assert [int(leaf) for leaf in flatten_outputs(nest)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("module", "inputs", "words"),
    [
        (nn.Linear(3, 2), (torch.zeros(2, 4),), r"does not run on inputs input \[2, 4\]: .*; give inputs of the shape"),
        (nn.Linear(3, 2), (torch.tensor(1.0),), "has no axes: its first axis must be the batch"),
        (nn.Linear(3, 2), (torch.zeros(0, 3),), r"of shape \[0, 3\] is empty"),
        (nn.Embedding(4, 2), (torch.full((2, 3), 9),), "does not run on inputs"),
        (Answers(), (torch.zeros(2, 3),), "does not run on inputs"),
        (nn.Module(), (torch.zeros(2, 3),), "does not run on inputs"),
    ],
)
def test_a_network_that_does_not_run_is_refused_with_its_shapes(module, inputs, words):
    with pytest.raises(ModelRefused, match=words):
        Network(module, inputs)


def test_a_network_that_gives_no_tensor_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return "nothing"

    with pytest.raises(ModelRefused, match="gives no tensor"):
        Network(Silent(), (torch.zeros(2, 3),))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    module[1].bias.data[0] = value
    with pytest.raises(ModelRefused, match=r"NaN or infinity in 1\.bias: load weights that are finite"):
        Network(module, (torch.zeros(2, 3),))


def test_a_buffer_may_be_infinite_as_masks_are():
    module = nn.Linear(3, 2)
    module.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    Network(module, (torch.zeros(2, 3),))
    module.mask[0] = float("nan")
    with pytest.raises(ModelRefused, match="NaN or infinity in mask"):
        Network(module, (torch.zeros(2, 3),))


def test_input_names_must_pair_up_with_the_inputs():
    with pytest.raises(ModelRefused, match="2 input names"):
        Network(nn.Linear(3, 2), (torch.zeros(2, 3),), input_names=("a", "b"))


def test_notes_are_kept_once_and_the_network_is_a_value():
    network = Network(nn.Linear(3, 2), (torch.zeros(2, 3),), source=Source("module", "a:b"))
    noted = network.noting("one", "two").noting("two", "three")
    assert noted.notes == ("one", "two", "three")
    assert network.notes == ()
    assert (noted.module, noted.source.location) == (network.module, "a:b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.notes = ()


pixels = st.integers(0, 2**31).map(lambda seed: np.random.default_rng(seed).integers(0, 256, (2, 7, 6, 3), dtype=np.uint8))


@checked
@given(pixels, st.floats(0.001, 2), st.floats(-2, 2), st.floats(0.1, 3))
def test_a_preprocess_scales_and_lays_out(images, scale, mean, std):
    expected = (images * scale - mean) / std
    first = Preprocess(scale=scale, mean=(mean,), std=(std,))(images)
    last = Preprocess(scale=scale, mean=(mean,) * 3, std=(std,) * 3, layout="NHWC")(images)
    assert first.dtype == last.dtype == np.float32
    assert np.allclose(last, expected, rtol=1e-4, atol=1e-3)
    assert np.array_equal(first, last.transpose(0, 3, 1, 2))
    assert np.array_equal(first, Preprocess(scale=scale, mean=(mean,), std=(std,))(images.transpose(0, 3, 1, 2)))


def test_each_channel_has_its_mean():
    images = np.full((1, 2, 2, 3), 10, np.uint8)
    found = Preprocess(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 7.0))(images)
    assert found[0, :, 0, 0].tolist() == [9.0, 4.0, 1.0]


def test_the_crop_is_at_the_centre():
    images = np.zeros((1, 5, 7), np.uint8)
    images[0, 1:4, 2:5] = 1
    assert Preprocess(crop=(3, 3))(images).tolist() == np.ones((1, 1, 3, 3)).tolist()


def test_images_smaller_than_the_crop_are_refused():
    with pytest.raises(DataRefused, match="an image of 5x7 pixels is smaller than the crop of 6x6"):
        Preprocess(crop=(6, 6))(np.zeros((1, 5, 7), np.uint8))


@pytest.mark.parametrize("shape", [(1, 5, 7), (1, 5, 7, 1), (1, 5, 7, 4), (5, 3)])
def test_images_of_another_number_of_channels_are_refused(shape):
    with pytest.raises(DataRefused, match="the preprocess has 3 means"):
        Preprocess(mean=(1.0, 2.0, 3.0))(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layout": "HWC"}, "layout is 'HWC'; it must be 'NCHW' or 'NHWC'"),
        ({"std": (1.0, 0.0, 1.0)}, "every value must be above 0"),
        ({"size": 0}, "size is 0"),
        ({"crop": (3,)}, "crop is .3,."),
        ({"crop": (0, 3)}, "crop is .0, 3."),
        ({"mean": (1.0, 2.0), "std": (1.0, 2.0, 3.0)}, "2 means and 3 stds"),
        ({"scale": float("nan")}, "must be finite"),
        ({"mean": (float("inf"),)}, "must be finite"),
    ],
)
def test_a_preprocess_that_makes_no_sense_is_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        Preprocess(**fields)
