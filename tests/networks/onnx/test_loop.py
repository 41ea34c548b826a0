"""Loops, against ONNX Runtime: counted and conditional ones, what they carry and what they collect."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lissom.deploy.write_back import write_back
from lissom.errors import ModelRefused
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.job import Job
from lissom.networks.onnx import read_module, read_onnx
from lissom.prune.channels import PruneChannels

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def recurrent(*, by_condition: bool, body_outputs: int = 4) -> ModelProto:
    """A recurrent layer written as a loop over the steps of [steps, batch, 3], as converters from TensorFlow write it."""
    random = np.random.default_rng(0)
    body_nodes = [
        helper.make_node("Gather", ["x", "step"], ["now"], axis=0),
        helper.make_node("MatMul", ["now", "kernel"], ["a"]),
        helper.make_node("MatMul", ["state", "recurrent"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["state_next"]),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("v", INT, [], [1])),
        helper.make_node("Add", ["step", "one"], ["step_next"]),
        helper.make_node("Less", ["step_next", "steps"], ["goes_on"]),
        helper.make_node("Identity", ["state_next"], ["collected"]),
    ]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        body_nodes, "body",
        [value("round", INT, []), value("go", BOOL, []), value("step", INT, []), value("state", FLOAT, ["n", 8])],
        [value("goes_on", BOOL, []), value("step_next", INT, []), value("state_next", FLOAT, ["n", 8]),
         value("collected", FLOAT, ["n", 8])][:body_outputs],
    )  # fmt: skip
    first = [
        helper.make_node("Transpose", ["images"], ["x"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["x"], ["lengths"]),
        helper.make_node("Gather", ["lengths", "zero"], ["steps"]),
        helper.make_node("Gather", ["lengths", "one_more"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["batch_list"]),
        helper.make_node("Concat", ["batch_list", "width"], ["state_shape"], axis=0),
        helper.make_node("ConstantOfShape", ["state_shape"], ["start"]),
        helper.make_node("Less", ["zero", "steps"], ["any"]),
    ]
    loop = helper.make_node(
        "Loop", ["" if by_condition else "steps", "any", "zero", "start"], ["last_step", "last", "all"], body=body
    )
    tensors = {
        "kernel": random.normal(size=(3, 8)).astype(np.float32),
        "recurrent": random.normal(size=(8, 8)).astype(np.float32) / 3,
        "head": random.normal(size=(8, 2)).astype(np.float32),
        "zero": np.array(0), "one_more": np.array(1), "axes": np.array([0]), "width": np.array([8]),
    }  # fmt: skip
    graph = helper.make_graph(
        [*first, loop, helper.make_node("MatMul", ["last", "head"], ["scores"]),
         helper.make_node("MatMul", ["all", "head"], ["each"])], "recurrent",
        [value("images", FLOAT, ["n", 5, 3])], [value("scores", FLOAT, ["n", 2]), value("each", FLOAT, [5, "n", 2])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x})


@pytest.mark.parametrize("by_condition", [True, False])
def test_a_loop_answers_as_onnx_runtime_does_and_trains(by_condition: bool) -> None:
    model = recurrent(by_condition=by_condition)
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    network = read_onnx(model)
    for ours, theirs in zip(network.outputs(torch.from_numpy(x)), run(model, x), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)
    network.module(torch.from_numpy(x))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.module.parameters())


def test_a_loop_over_a_known_number_of_steps_is_unrolled_pruned_and_written_back(job: Job) -> None:
    network = read_onnx(recurrent(by_condition=True))
    assert [group.size for group in groups(capture(network))] == [8]
    smaller = PruneChannels(ratio=0.5, importance="l1", reconstruct=False).apply(network, job)
    written = write_back(smaller).model
    assert [list(tensor.dims) for tensor in written.graph.initializer][:3] == [[3, 4], [4, 4], [4, 2]]
    x = np.random.default_rng(1).normal(size=(4, 5, 3)).astype(np.float32)
    for ours, theirs in zip(smaller.outputs(torch.from_numpy(x)), run(written, x), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_a_body_that_does_not_fit_its_node_is_refused() -> None:
    with pytest.raises(ModelRefused, match=r"Loop node 'last_step' has 4 inputs and 3 outputs, and its body 4 and 3"):
        read_module(recurrent(by_condition=True, body_outputs=3))
