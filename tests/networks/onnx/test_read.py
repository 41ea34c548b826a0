"""An ONNX file as a network: parameters, parity with ONNX Runtime, training, export, branches, forms of storage."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import onnx
import pytest
import torch
from models import attention, convolutional, model, node, random, run
from onnx import TensorProto, helper, numpy_helper

from lissom.data import Arrays, Data
from lissom.errors import ModelRefused, UsageError
from lissom.job import Job
from lissom.networks.onnx import read_module, read_onnx


def test_parameters_are_the_floating_initialisers_by_name() -> None:
    network = read_onnx(convolutional())
    names = {name for name, _ in network.parameters()}
    assert names == {"c1.weight", "c1.bias", "bn.scale", "bn.bias", "c2.weight", "fc.weight", "fc.bias"}
    assert {name for name, _ in network.module.named_buffers()} >= {"bn.mean", "bn.var"}
    assert network.input_names == ("x",)
    assert network.output_names == ("y",)
    assert network.source.kind == "onnx"


@pytest.mark.parametrize("make", [convolutional, attention])
@pytest.mark.parametrize("batch", [1, 3])
def test_parity_with_onnx_runtime(make: object, batch: int) -> None:
    made = make()  # type: ignore[operator]
    shape = (batch, 3, 9, 9) if make is convolutional else (batch, 5, 8)
    x = random(*shape)
    np.testing.assert_allclose(read_onnx(made).outputs(torch.from_numpy(x))[0].numpy(), run(made, x=x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [convolutional, attention])
def test_exports_with_open_batch_and_length(make: object) -> None:
    network = read_onnx(make())  # type: ignore[operator]
    axes = {0: torch.export.Dim("batch", min=1, max=64)}
    if make is attention:
        axes[1] = torch.export.Dim("length", min=1, max=99)
    program = torch.export.export(network.module, network.example_inputs, dynamic_shapes=(axes,))
    x = torch.randn(5, 3, 9, 9) if make is convolutional else torch.randn(5, 11, 8)
    torch.testing.assert_close(program.module()(x), network.module(x))


def test_a_state_of_another_batch_is_refused_before_the_kernel_reads_it() -> None:
    nodes = [node("LSTM", "x w r - - h c", "y last", hidden_size=4)]
    made = model(
        nodes, {"x": ("float", ["t", "n", 3]), "h": ("float", [1, 1, 4]), "c": ("float", [1, 1, 4])}, {"last": "float"},
        {"w": random(1, 16, 3), "r": random(1, 16, 4)},
    )  # fmt: skip
    with pytest.raises(ValueError, match="initial state has shape"):
        read_module(made)(torch.ones(2, 5, 3), torch.ones(1, 1, 4), torch.ones(1, 1, 4))


def test_trains() -> None:
    network = read_onnx(convolutional())
    optimizer = torch.optim.Adam(network.module.parameters(), 1e-2)
    x, target = torch.randn(16, 3, 9, 9), torch.randn(16, 5)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.mse_loss(network.module(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in network.module.parameters())


def test_quantize_and_dequantize_let_gradients_through() -> None:
    nodes = [
        node("QuantizeLinear", "x scale zero", "q"), node("Reshape", "q shape", "r"), node("DequantizeLinear", "r scale zero", "y"),  # noqa: E501
    ]  # fmt: skip
    made = model(
        nodes, {"x": ("float", ["n", 4])}, {"y": "float"},
        {"scale": np.array(0.1, np.float32), "zero": np.array(128, np.uint8), "shape": np.array([-1, 2, 2])},
    )  # fmt: skip
    network = read_onnx(made)
    x = torch.tensor([[0.04, -0.26, 50.0, 0.15]], requires_grad=True)
    y = network.module(x)
    np.testing.assert_array_equal(y.detach().numpy(), run(made, x=x.detach().numpy())[0])
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 1.0, 0.0, 1.0]], "straight through inside the range, nothing where it saturates"
    scale = dict(network.parameters())["scale"].grad
    assert scale is not None
    inside = sum(np.round(v / np.float32(0.1)) - v / np.float32(0.1) for v in (0.04, -0.26, 0.15))
    assert float(scale) == pytest.approx((inside + 127) / 2, abs=1e-4), "the gradient of a learned step that 4 values share"


def test_a_branch_is_chosen_by_the_shape_while_the_graph_runs() -> None:
    long = helper.make_graph([node("Mul", "x two", "big")], "long", [], [helper.make_tensor_value_info("big", 1, None)])
    short = helper.make_graph([node("Neg", "x", "big")], "short", [], [helper.make_tensor_value_info("big", 1, None)])
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape one", "length"), node("Greater", "length three", "is_long"),
        helper.make_node("If", ["is_long"], ["y"], then_branch=long, else_branch=short),
    ]  # fmt: skip
    tensors = {"one": np.array(1), "three": np.array(3), "two": np.array([2, 2, 2, 2], np.float32)}
    module = read_module(model(nodes, {"x": ("float", ["n", "m"])}, {"y": "float"}, tensors))
    assert module(torch.ones(1, 4)).tolist() == [[2, 2, 2, 2]]
    assert module(torch.ones(1, 2)).tolist() == [[-1, -1]]


def test_shared_and_aliased_initialisers_are_one_parameter() -> None:
    nodes = [node("Identity", "w", "v"), node("MatMul", "x w", "a"), node("MatMul", "a v", "y")]
    made = model(nodes, {"x": ("float", ["n", 3])}, {"y": "float"}, {"w": random(3, 3)})
    network = read_onnx(made)
    assert [name for name, _ in network.parameters()] == ["w"]


def test_weights_in_constant_nodes_and_typed_fields_are_parameters() -> None:
    constant = helper.make_node("Constant", [], ["w"], value=helper.make_tensor("", TensorProto.FLOAT, [2, 2], [1, 2, 3, 4]))
    made = model([constant, node("MatMul", "x w", "y")], {"x": ("float", ["n", 2])}, {"y": "float"}, {})
    network = read_onnx(made)
    assert dict(network.parameters())["w"].tolist() == [[1, 2], [3, 4]]


def test_half_precision_files_compute_in_half_precision() -> None:
    weight = random(3, 2).astype(np.float16)
    made = model([node("MatMul", "x w", "y")], {"x": ("half", ["n", 3])}, {"y": "half"}, {"w": weight})
    network = read_onnx(made)
    assert network.outputs(*network.example_inputs)[0].dtype == torch.float16


def test_external_data_is_mapped_and_stays_as_it_is_on_disk(tmp_path: Path) -> None:
    onnx.save(convolutional(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = (tmp_path / "m.data").read_bytes()
    network = read_onnx(tmp_path / "m.onnx")
    x = random(2, 3, 9, 9)
    expected = run(convolutional(), x=x)[0]
    np.testing.assert_allclose(network.outputs(torch.from_numpy(x))[0].numpy(), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        dict(network.parameters())["fc.weight"].zero_()
    assert (tmp_path / "m.data").read_bytes() == before


def test_all_unsupported_operators_are_listed_at_once_and_the_weights_can_still_be_read() -> None:
    nodes = [
        helper.make_node("Secret", ["x"], ["a"], domain="acme"), helper.make_node("Secret", ["a"], ["b"], domain="acme"),
        node("StringNormalizer", "b", "c"), node("MatMul", "c w", "y"),
    ]  # fmt: skip
    made = model(nodes, {"x": ("float", ["n", 3])}, {"y": "float"}, {"w": random(3, 2)})
    made.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ModelRefused, match=r"StringNormalizer \(1\), acme\.Secret \(2\)"):
        read_onnx(made)
    network = read_onnx(made, weights_only=True)
    assert [name for name, _ in network.parameters()] == ["w"]
    assert "acme.Secret" in network.notes[0]


def test_what_needs_only_weights_works_on_a_file_that_lissom_cannot_run(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from lissom.cli.app import app
    from lissom.deploy import deploy
    from lissom.quantize.weights import QuantizeWeights
    from lissom.share.weights import ShareWeights

    nodes = [helper.make_node("Secret", ["x"], ["a"], domain="acme"), node("MatMul", "a w", "b"), node("MatMul", "b v", "y")]
    made = model(nodes, {"x": ("float", ["n", 16])}, {"y": "float"}, {"w": random(16, 8), "v": random(8, 32)})
    made.opset_import.append(helper.make_opsetid("acme", 1))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    call = CliRunner().invoke
    shown = json.loads(call(app, ["inspect", str(tmp_path / "m.onnx"), "--json"], catch_exceptions=False).stdout)
    assert shown["parameters"] == 16 * 8 + 8 * 32
    assert any("acme.Secret" in note for note in shown["notes"])
    packed = call(app, ["pack", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.lissom"), "--quality", "30"])
    assert packed.exit_code == 0, packed.output
    refused = call(app, ["compress", str(tmp_path / "m.onnx"), "--data", "none.npz", "--out", str(tmp_path / "out")])
    assert refused.exit_code == 4
    assert "acme.Secret (1)" in refused.output
    network = read_onnx(tmp_path / "m.onnx", weights_only=True)
    edited = QuantizeWeights(bits=8, include=("w",)).apply(network, no_job(network))
    edited = ShareWeights(bits=3, include=("v",)).apply(edited, no_job(edited))
    written = deploy(edited).model
    assert [each.op_type for each in written.graph.node if each.domain == "acme"] == ["Secret"]
    assert {tensor.name for tensor in written.graph.initializer} == {"w.levels", "w.scale", "v.levels", "v.table"}
    with pytest.raises(ModelRefused, match="only the weights of this file were read"):
        network.outputs(torch.zeros(2, 16))


def no_job(network: object) -> Job:
    return Job(data=Data.of(Arrays((np.zeros((8, 1), np.float32),), None)), loss=None, metric=None, teacher=network)  # type: ignore[arg-type]


def fixed(batch: int) -> onnx.ModelProto:
    """A file that states its batch in a Reshape, so that it computes with no other."""
    nodes = [node("MatMul", "x w", "a"), node("Reshape", "a shape", "b"), node("ReduceSum", "b axes", "y", keepdims=0)]
    tensors = {"w": random(6, 8), "shape": np.array([batch, 2, 4]), "axes": np.array([1])}
    return model(nodes, {"x": ("float", [batch, 6])}, {"y": "float"}, tensors)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_file_that_computes_with_one_batch_takes_any_number_of_samples(batch: int, tmp_path: Path) -> None:
    from lissom.runtimes.network import file_network

    network = read_onnx(fixed(batch))
    assert network.fixed_batch
    assert network.example_inputs[0].shape[0] == batch
    (tmp_path / "m.onnx").write_bytes(fixed(batch).SerializeToString())
    x = torch.from_numpy(random(6, 6))
    expected = (x @ torch.from_numpy(random(6, 8))).reshape(6, 2, 4).sum(1)
    torch.testing.assert_close(network.outputs(x)[0], expected)
    torch.testing.assert_close(file_network(tmp_path / "m.onnx").outputs(x)[0], expected)


def test_a_batch_that_is_only_declared_is_none() -> None:
    made = model([node("MatMul", "x w", "y")], {"x": ("float", [1, 6])}, {"y": "float"}, {"w": random(6, 8)})
    network = read_onnx(made)
    assert not network.fixed_batch
    assert network.example_inputs[0].shape[0] == 2


def test_real_samples_say_what_declared_shapes_do_not(tmp_path: Path) -> None:
    from lissom.networks import open_network

    made = model([node("MatMul", "x w", "y")], {"x": ("float", ["n", "any"])}, {"y": "float"}, {"w": random(7, 3)})
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(ModelRefused, match=r"does not run on its declared inputs .*--input 3x224x224"):
        open_network(tmp_path / "m.onnx")
    samples = {"x": random(10, 7)}
    assert open_network(tmp_path / "m.onnx", data=samples).example_inputs[0].shape == (2, 7)
    assert open_network(tmp_path / "m.onnx", input_shapes=["7"]).example_inputs[0].shape == (2, 7)


def test_data_with_other_names_than_the_inputs_is_refused() -> None:
    from lissom.data import load_data
    from lissom.errors import DataRefused

    network = read_onnx(convolutional())
    with pytest.raises(DataRefused, match="x"):
        load_data({"images": random(8, 3, 9, 9), "masks": random(8, 1)}, network)


def test_already_quantised_files_keep_their_levels_as_state() -> None:
    nodes = [node("DequantizeLinear", "q scale zero", "w", axis=0), node("MatMul", "x w", "y")]
    tensors = {
        "q": np.arange(-8, 8, dtype=np.int8).reshape(4, 4), "scale": np.float32([0.1, 0.2, 0.3, 0.4]),
        "zero": np.zeros(4, np.int8),
    }  # fmt: skip
    made = model(nodes, {"x": ("float", ["n", 4])}, {"y": "float"}, tensors)
    network = read_onnx(made)
    assert dict(network.module.named_buffers())["q"].dtype == torch.int8
    x = random(3, 4)
    np.testing.assert_allclose(network.outputs(torch.from_numpy(x))[0].numpy(), run(made, x=x)[0], rtol=1e-5, atol=1e-6)


def test_an_input_that_is_one_number_is_a_setting() -> None:
    made = model([node("Mul", "x rate", "y")], {"x": ("float", ["n", 2]), "rate": ("float", [])}, {"y": "float"}, {})
    with pytest.raises(ModelRefused, match="rate is a single number"):
        read_onnx(made)
    network = read_onnx(made, settings={"rate": 3})
    assert network.input_names == ("x",)
    assert network.outputs(torch.ones(2, 2))[0].tolist() == [[3, 3], [3, 3]]
    with pytest.raises(UsageError, match="no input is called speed; the file's inputs are x, rate"):
        read_onnx(made, settings={"speed": 3})


def test_the_same_parameters_after_a_deep_copy() -> None:
    import copy

    network = read_onnx(convolutional())
    duplicate = copy.deepcopy(network.module)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.zero_()
    x = network.example_inputs[0]
    assert duplicate(x).abs().max().item() == 0
    assert network.module(x).abs().max().item() > 0


def test_models_made_for_tests_are_valid() -> None:
    for made in (convolutional(), attention()):
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(made, strict_mode=True))
    assert numpy_helper.to_array(models.convolutional().graph.initializer[0]).shape == (8, 3, 3, 3)
