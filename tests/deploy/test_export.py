"""Float export: parity in the real runtime, on the networks that are easy to get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lissom.deploy import deploy, verify
from lissom.deploy.editing import Editor
from lissom.errors import DeployFailed
from lissom.network import Network
from lissom.runtimes import open_file

ALL = ("residual", "transposed", "tied", "recurrent", "twice")


@pytest.mark.parametrize("name", ALL)
def test_the_file_answers_as_the_network_does_at_any_batch(name: str, network: Any, batch: Any) -> None:
    made = network(name)
    deployed = deploy(made)
    onnx.checker.check_model(deployed.model, full_check=True)
    assert verify(deployed, made, [batch(made, 37)]).n == 37
    assert verify(deployed, made, [batch(made, 1, seed=1)]).holds


@pytest.mark.parametrize("name", ALL)
def test_the_same_network_gives_the_same_bytes(name: str, network: Any) -> None:
    assert deploy(network(name)).to_bytes() == deploy(network(name)).to_bytes()


def test_nothing_of_this_machine_is_in_the_file(network: Any) -> None:
    data = deploy(network("residual")).to_bytes()
    for trace in (b"/home", b".py", b"File", b"torch", b"stack", b"site-packages"):
        assert trace not in data, trace
    model = onnx.load_model_from_string(data)
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_every_weight_is_bound_to_its_parameter_and_tied_ones_are_stored_once(network: Any) -> None:
    made = network("tied")
    deployed = deploy(made)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in deployed.model.graph.initializer}
    state = made.module.state_dict()
    for binding in deployed.bindings:
        expected = state[binding.parameter].numpy()
        order = binding.permutation or tuple(range(expected.ndim))
        np.testing.assert_array_equal(held[binding.initializer], expected.transpose(order))
    assert sum(value.shape == (50, 16) for value in held.values()) == 1
    assert {binding.parameter for binding in deployed.bindings} == set(state) - {"embed.weight"}


def test_dynamic_axes_beside_the_batch_stay_dynamic(network: Any) -> None:
    made = network("tied")
    session = open_file(deploy(made).to_bytes())
    ids = torch.randint(0, 50, (3, 11))
    np.testing.assert_allclose(session(ids.numpy())[0], made.outputs(ids)[0].numpy(), atol=1e-5)


def test_names_of_inputs_and_outputs_are_the_users() -> None:
    made = Network(nn.Linear(3, 2), (torch.zeros(2, 3),), input_names=("image",), output_names=("logits",))
    session = open_file(deploy(made).to_bytes())
    assert (session.input_names, session.output_names) == (("image",), ("logits",))


def test_names_may_be_those_that_the_exporter_gives_to_values_within() -> None:
    class Adding(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = (x + 1).relu()
            return y * 3, y + 2

    made = Network(Adding(), (torch.zeros(2, 3),), input_names=("relu",), output_names=("add", "mul"))
    deployed = deploy(made)
    assert verify(deployed, made, [(torch.randn(33, 3),)]).holds
    session = open_file(deployed.to_bytes())
    assert (session.input_names, session.output_names) == (("relu",), ("add", "mul"))
    onnx.checker.check_model(deployed.model, full_check=True)


def test_an_output_named_like_a_parameter_is_refused() -> None:
    with pytest.raises(DeployFailed, match="the name 'weight' of an input or output is taken"):
        deploy(Network(nn.Linear(3, 2), (torch.zeros(2, 3),), output_names=("weight",)))


def test_a_graph_that_runs_in_a_circle_is_refused() -> None:
    nodes = [onnx.helper.make_node("Add", ["x", "b"], ["a"]), onnx.helper.make_node("Neg", ["a"], ["b"])]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("b", 1, [1])])
    with pytest.raises(DeployFailed, match="the graph runs in a circle"):
        Editor(onnx.helper.make_model(graph)).sort()


def test_an_output_that_is_an_input_or_given_twice_is_exported() -> None:
    class Handing(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = x * 2
            return y, y + 0, x.reshape(x.shape[0], -1)

    made = Network(Handing(), (torch.randn(2, 3, 4),))
    assert verify(deploy(made), made, [(torch.randn(33, 3, 4),)]).holds


def test_a_network_that_torch_cannot_export_is_one_clear_error() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if float(x.sum()) > 0 else x

    with pytest.raises(DeployFailed, match="torch cannot export Branching"):
        deploy(Network(Branching(), (torch.ones(2, 3),)))
