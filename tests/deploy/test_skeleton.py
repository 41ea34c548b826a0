"""Skeleton: the graph without its weights gives the very bytes of the file back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lissom import codec, edits
from lissom.deploy import deploy, skeleton
from lissom.errors import CorruptArchive, DeployFailed
from lissom.grids import Affine, Codebook
from lissom.network import Network

ALL = ("residual", "transposed", "tied", "recurrent", "twice")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("edited", [False, True])
def test_the_archive_gives_back_the_file(name: str, edited: bool, network: Any) -> None:
    made = network(name)
    if edited:
        for index, (parameter, weight) in enumerate(list(edits.weights(made.module))):
            if weight.ndim >= 2:
                table = Codebook(torch.tensor([-0.5, 0.0, 0.5]), torch.randint(0, 3, weight.shape))
                edits.attach(made.module, parameter, grid=table if index % 2 else Affine.fit(weight, bits=6, channel_axis=0))
    deployed = deploy(made)
    archive = codec.decode(deployed.archive("fast"))
    assert archive.network is not None
    assert skeleton.restore(archive.network, archive.tensors) == deployed.to_bytes()


def test_tensors_have_the_users_names_and_order_of_axes(network: Any) -> None:
    made = network("tied")
    _, tensors = deploy(made).parts()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, made.module.state_dict()[name].numpy())


def test_a_small_network_has_a_small_skeleton() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 500), nn.ReLU(),
        nn.Linear(500, 10),
    )  # fmt: skip
    body, _ = deploy(Network(module, (torch.zeros(2, 1, 28, 28),))).parts()
    assert len(body) < 400


def _model() -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.arange(600, dtype=np.float32).reshape(20, 30), "a long name / with: odd characters"),
        numpy_helper.from_array(np.arange(300, dtype=np.int64), "v0"),
        numpy_helper.from_array(np.float32([1, 2]), "small"),
        helper.make_tensor("typed", TensorProto.FLOAT, [50], [0.5] * 50),
    ]
    nodes = [helper.make_node("Add", ["x", weights[0].name], ["\x7f1"]), helper.make_node("Abs", ["\x7f1"], ["y"], name="mine")]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, ["n", 30])], [helper.make_tensor_value_info("y", 1, None)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_a_model_that_is_not_lissoms_comes_back_as_it_was() -> None:
    model = _model()
    body, tensors = skeleton.split(model)
    assert set(tensors) == {"a long name / with: odd characters", "v0"}
    assert skeleton.restore(body, tensors) == model.SerializeToString(deterministic=True)


def test_a_model_with_data_elsewhere_is_refused() -> None:
    model = _model()
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(DeployFailed, match="keeps its data in another file"):
        skeleton.split(model)


def test_missing_and_misshapen_tensors_are_corruption() -> None:
    body, tensors = skeleton.split(_model())
    with pytest.raises(CorruptArchive, match="no tensor"):
        skeleton.restore(body, {})
    wrong = {name: np.zeros(3, np.float32) for name in tensors}
    with pytest.raises(CorruptArchive, match="shape"):
        skeleton.restore(body, wrong)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_damaged_skeletons_end_in_corrupt_archive_or_in_a_model(position: int, value: int, cut: bool) -> None:
    body, tensors = skeleton.split(_model())
    damaged = bytearray(body)
    damaged[position % len(body)] = value
    data = bytes(damaged[: position % len(body)] if cut else damaged)
    try:
        restored = skeleton.restore(data, tensors)
    except CorruptArchive:
        return
    assert isinstance(restored, bytes)
