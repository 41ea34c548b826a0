"""deploy() of a network that was read from ONNX: the user's own file comes back, whatever its set, types and storage."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from lissom import edits
from lissom.data import Arrays, Data
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.skeleton import restore
from lissom.grids.fitting import FITS, Wanted
from lissom.job import Job
from lissom.network import Network, Preprocess
from lissom.networks.onnx import read_onnx
from lissom.prune.channels import PruneChannels
from lissom.quantize.weights import QuantizeWeights
from lissom.share.weights import ShareWeights

sys.path.insert(0, str(Path(__file__).parents[1] / "networks" / "onnx"))
from models import convolutional, model, node, random, run


def no_data(network: Network) -> Job:
    return Job(data=Data.of(Arrays((np.zeros((8, 1), np.float32),), None)), loss=None, metric=None, teacher=network)  # type: ignore[arg-type]


def linear(opset: int = 17, weight: np.ndarray | None = None) -> ModelProto:
    held = {"w": random(16, 8) if weight is None else weight}
    kind = {"float32": "float", "float16": "half"}[held["w"].dtype.name]
    return model([node("MatMul", "x w", "y")], {"x": (kind, ["n", 16])}, {"y": kind}, held, opset)


def same_answers(edited: Network, written: ModelProto, *, within: float = 1e-4) -> None:
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(written))
    x = edited.example_inputs[0]
    expected = edited.outputs(x)[0].numpy()
    np.testing.assert_allclose(run(written, x=x.numpy())[0], expected, rtol=within, atol=within * np.abs(expected).max())


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
@pytest.mark.parametrize(
    "step",
    [
        QuantizeWeights(bits=8),
        QuantizeWeights(bits=8, granularity="tensor", symmetric=False),
        QuantizeWeights(bits=4, granularity=4),
        QuantizeWeights(bits=12),
        ShareWeights(bits=3),
    ],
    ids=["channel", "asymmetric", "blocks", "wide", "share"],
)
def test_levels_are_stored_as_integers_in_every_operator_set(opset: int, step: object) -> None:
    network = read_onnx(linear(opset))
    edited = step.apply(network, no_data(network))  # type: ignore[attr-defined]
    deployed = deploy(edited)
    same_answers(edited, deployed.model)
    assert deployed.model.opset_import == network.source.original.opset_import
    kinds = {t.name: t.data_type for t in deployed.model.graph.initializer}
    assert kinds["w.levels"] != TensorProto.FLOAT
    body, tensors = deployed.parts()
    assert restore(body, tensors) == deployed.to_bytes()
    np.testing.assert_array_equal(tensors["w"].dense(), edits.value(edited.module, "w").numpy())


@pytest.mark.parametrize("step", [QuantizeWeights(bits=8), ShareWeights(bits=3)], ids=["quantize", "share"])
def test_half_precision_files_keep_their_type(step: object) -> None:
    network = read_onnx(linear(weight=random(16, 8).astype(np.float16)))
    edited = step.apply(network, no_data(network))  # type: ignore[attr-defined]
    written = deploy(edited).model
    same_answers(edited, written, within=2e-3)
    assert written.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    assert max(t.data_type for t in written.graph.initializer if t.name == "w.levels") in (TensorProto.INT8, TensorProto.UINT8)


def test_a_weight_in_a_constant_node_becomes_levels_too() -> None:
    made = linear()
    tensor = made.graph.initializer.pop()
    made.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    network = read_onnx(made)
    edited = QuantizeWeights(bits=8).apply(network, no_data(network))
    written = deploy(edited).model
    same_answers(edited, written)
    assert "Constant" not in {each.op_type for each in written.graph.node}
    masked = edits.copy(network)
    edits.attach(masked.module, "w", mask=torch.arange(128).reshape(16, 8) % 2 == 0)
    written = deploy(masked).model
    same_answers(masked, written)
    assert [each.op_type for each in written.graph.node] == ["Constant", "MatMul"], "values stay where they stood"


def test_weights_as_lists_of_floats_and_sparse_weights() -> None:
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0])
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 4.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [2], [0, 3]), [2, 2])
    made = model([constant, node("MatMul", "x w", "a"), node("Mul", "a c", "y")], {"x": ("float", ["n", 2])}, {"y": "float"}, {})
    made.graph.sparse_initializer.append(sparse)
    network = read_onnx(made)
    assert deploy(network).to_bytes() == made.SerializeToString(deterministic=True), "nothing edited, nothing changed"
    edited = edits.copy(network)
    edits.attach(edited.module, "w", mask=torch.tensor([[True, True], [True, False]]))
    edits.attach(edited.module, "c", mask=torch.tensor([True, False]))
    written = deploy(edited).model
    tensors = {t.name: numpy_helper.to_array(t).tolist() for t in written.graph.initializer}
    assert tensors == {"w": [[3.0, 0.0], [0.0, 0.0]]}
    assert numpy_helper.to_array(written.graph.node[0].attribute[0].t).tolist() == [1.0, 0.0]


def test_weights_that_an_old_file_lists_among_its_inputs() -> None:
    made = linear(9)
    made.ir_version = 3
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 8]))
    network = read_onnx(made)
    edited = QuantizeWeights(bits=8).apply(network, no_data(network))
    written = deploy(edited).model
    same_answers(edited, written)
    assert written.ir_version == 3


def test_external_data_comes_home(tmp_path: Path) -> None:
    onnx.save(convolutional(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    network = read_onnx(tmp_path / "m.onnx")
    edited = QuantizeWeights(bits=8, include=("fc.weight",)).apply(network, no_data(network))
    deploy(edited).save(tmp_path / "elsewhere.onnx")
    (tmp_path / "m.data").rename(tmp_path / "gone")
    written = onnx.load(tmp_path / "elsewhere.onnx")
    assert all(tensor.data_location != TensorProto.EXTERNAL for tensor in written.graph.initializer)
    same_answers(edited, written)


def test_both_branches_may_hold_weights_of_one_name() -> None:
    def side(name: str, seed: int) -> onnx.GraphProto:
        tensor = numpy_helper.from_array(random(4, 4, seed=seed), "w")
        return helper.make_graph([node("MatMul", "x w", "r")], name, [], [helper.make_tensor_value_info("r", 1, None)], [tensor])

    nodes = [
        node("ReduceSum", "x axes", "total"), node("Greater", "total zero", "many"), node("Squeeze", "many axes", "yes"),
        helper.make_node("If", ["yes"], ["y"], else_branch=side("else", 2), then_branch=side("then", 1)),
    ]  # fmt: skip
    tensors = {"zero": np.zeros((1, 1), np.float32), "axes": np.array([0, 1])}
    network = read_onnx(model(nodes, {"x": ("float", ["n", 4])}, {"y": "float"}, tensors))
    names = sorted(name for name, _ in network.parameters())
    assert len(names) == 2
    edited = edits.copy(network)
    for name, keep in zip(names, (0, 1), strict=True):
        edits.attach(edited.module, name, mask=torch.arange(16).reshape(4, 4) % 2 == keep)
    written = deploy(edited).model
    for sign in (1, -1):
        x = torch.full((2, 4), float(sign))
        np.testing.assert_allclose(run(written, x=x.numpy())[0], edited.outputs(x)[0].numpy(), rtol=1e-5)


def test_a_cut_constant_is_written_back() -> None:
    """A one-hot lookup, as exporters of other frameworks write it: its classes are a constant that pruning cuts."""
    nodes = [node("Cast", "ids", "f", to=1), node("Equal", "f classes", "is"), node("Cast", "is", "hot", to=1)]
    nodes += [node("MatMul", "hot w", "h"), node("Relu", "h", "r"), node("MatMul", "r v", "y")]
    tensors = {"classes": np.arange(12, dtype=np.float32), "w": random(12, 16), "v": random(16, 3)}
    network = read_onnx(model(nodes, {"ids": ("float", ["n", 1])}, {"y": "float"}, tensors))
    edited = PruneChannels(ratio=0.4, importance="l1", scope="group", reconstruct=False).apply(network, no_data(network))
    written = deploy(edited).model
    ids = np.arange(12, dtype=np.float32).reshape(12, 1)
    np.testing.assert_allclose(run(written, ids=ids)[0], edited.outputs(torch.from_numpy(ids))[0].numpy(), rtol=1e-4, atol=1e-5)


def test_metadata_stays_and_says_how_images_become_inputs() -> None:
    import dataclasses

    made = convolutional()
    made.metadata_props.add(key="author", value="someone")
    made.producer_name = "them"
    network = dataclasses.replace(read_onnx(made), preprocess=Preprocess(scale=1 / 255))
    written = deploy(network).model
    assert {entry.key for entry in written.metadata_props} == {"author", "lissom.preprocess"}
    assert written.producer_name == "them"


@pytest.mark.parametrize("opset", [11, 17])
def test_int8_goes_into_the_file_and_leaves_its_names(opset: int) -> None:
    made = convolutional(opset)
    made.metadata_props.add(key="author", value="someone")
    for index, each in enumerate(made.graph.node):
        each.name = f"mine/{index}"
    network = read_onnx(made)
    batches = [(torch.randn(32, 3, 9, 9),)]
    deployed = deploy(network, Deploy(precision="int8", types="U8S8", ranges="minmax"), batches)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(deployed.model))
    verify(deployed, network, batches)
    written = deployed.model
    assert written.graph.input == made.graph.input
    assert written.graph.output == made.graph.output
    assert written.metadata_props == made.metadata_props
    kinds = [each.op_type for each in written.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("QuantizeLinear") >= 3
    names = {each.name for each in written.graph.node}
    assert {"mine/0", "mine/3", "mine/7"} <= names
    assert {"a", "c", "e"} & {name for each in written.graph.node for name in each.output}
    expected = network.outputs(*batches[0])[0].numpy()
    got = run(written, x=batches[0][0].numpy())[0]
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    assert any("raised" in note for note in deployed.notes) == (opset == 11)


def test_the_grids_all_come_back_exactly() -> None:
    network = read_onnx(linear(13))
    for name, fit in FITS.items():
        edited = edits.copy(network)
        edits.attach(edited.module, "w", grid=fit(edits.value(edited.module, "w"), Wanted(bits=4)))
        written = deploy(edited).model
        same_answers(edited, written, within=1e-3 if name in ("float16", "bfloat16") else 1e-4)


def test_equal_values_that_the_file_stores_once_tie_nothing() -> None:
    """Exporters store all zeros of one length once; a bias inside the network is then the bias of its output, too."""
    nodes = [node("Gemm", "x w zeros", "h"), node("Relu", "h", "r"), node("Gemm", "r v zeros", "y")]
    tensors = {"w": random(6, 16), "v": random(16, 16), "zeros": np.zeros(16, np.float32)}
    network = read_onnx(model(nodes, {"x": ("float", ["n", 6])}, {"y": "float"}, tensors))
    assert len(list(network.parameters())) == 4
    assert deploy(network).to_bytes() == network.source.original.SerializeToString(deterministic=True)
    edited = PruneChannels(ratio=0.5, importance="l1", scope="group", reconstruct=False).apply(network, no_data(network))
    written = deploy(edited).model
    same_answers(edited, written)
    assert {t.name: list(t.dims) for t in written.graph.initializer} == {
        "w": [6, 8],
        "v": [8, 16],
        "zeros": [16],
        "zeros.own": [8],
    }


def test_a_recurrent_layer_says_its_new_size() -> None:
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape one", "count"), node("Unsqueeze", "count zero", "counts"),
        node("Concat", "two counts eight", "state", axis=0), node("ConstantOfShape", "state", "h"),
        node("LSTM", "x w r b - h h", "y last", hidden_size=8, direction="bidirectional"),
        node("ReduceMean", "last", "z", axes=[0], keepdims=0),
        node("MatMul", "z v", "out"),
    ]  # fmt: skip
    tensors = {
        "one": np.array(1), "zero": np.array([0]), "two": np.array([2]), "eight": np.array([8]), "w": random(2, 32, 5, seed=1),
        "r": random(2, 32, 8, seed=2), "b": random(2, 64, seed=3), "v": random(8, 3, seed=4),
    }  # fmt: skip
    network = read_onnx(model(nodes, {"x": ("float", [7, "n", 5])}, {"out": "float"}, tensors))
    edited = PruneChannels(ratio=0.5, importance="l1", scope="group", reconstruct=False).apply(network, no_data(network))
    written = deploy(edited).model
    same_answers(edited, written)
    sizes = [a.i for each in written.graph.node for a in each.attribute if a.name == "hidden_size"]
    assert sizes == [4]


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel", 16, 24])
def test_the_runtime_as_users_have_it_rounds_no_activations(opset: int, bits: int, granularity: str | int) -> None:
    made = model([node("MatMul", "x w", "y")], {"x": ("float", ["n", 64])}, {"y": "float"}, {"w": random(64, 32)}, opset)
    made.ir_version = 10
    network = read_onnx(made)
    edited = QuantizeWeights(bits=bits, granularity=granularity).apply(network, no_data(network))
    deployed = deploy(edited)
    assert verify(deployed, edited, [(torch.randn(32, 64),)]).max_relative < 1e-5
    levels = next(t for t in deployed.model.graph.initializer if t.name == "w.levels")
    assert levels.data_type == (TensorProto.INT4 if (opset, bits) == (21, 4) else TensorProto.INT8)
