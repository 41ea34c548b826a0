"""Files that are damaged or hostile: one sentence each, and nothing executed or allocated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from models import convolutional, model, node, random
from onnx import ModelProto, TensorProto, helper

from lissom.errors import ModelRefused
from lissom.networks.onnx import read_module, read_onnx


def refused(made: ModelProto | Path, reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason) as caught:
        read_onnx(made)
    assert "\n" not in str(caught.value)


def simple(**tensors: np.ndarray) -> ModelProto:
    held = tensors or {"w": random(3, 2)}
    return model([node("MatMul", "x w", "y")], {"x": ("float", ["n", 3])}, {"y": "float"}, held)


def external(tmp_path: Path, location: str, **fields: int) -> Path:
    made = simple()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(made.SerializeToString())
    return path


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "there is no file")


@pytest.mark.parametrize("content", [b"", b"not a protobuf at all", b"\x08\xff\xff", b"\x00" * 100])
def test_what_is_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, "is not an ONNX model|holds no ONNX graph")


def test_every_truncation_is_refused_or_says_what_is_missing(tmp_path: Path) -> None:
    whole = convolutional().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole) - 1, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelRefused):
            read_onnx(path)


def test_a_cycle() -> None:
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    refused(model(nodes, {"x": ("float", ["n", 3])}, {"y": "float"}, {}), "cycle")


def test_an_input_that_nothing_makes() -> None:
    refused(model([node("Relu", "ghost", "y")], {"x": ("float", ["n", 3])}, {"y": "float"}, {}), "'ghost' which nothing makes")


def test_an_output_that_nothing_makes() -> None:
    refused(model([node("Relu", "x", "a")], {"x": ("float", ["n", 3])}, {"y": "float"}, {}), "no node makes the output 'y'")


def test_external_data_that_is_not_there(tmp_path: Path) -> None:
    refused(external(tmp_path, "w.bin"), "not beside the model")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "link.bin"])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 24)
    path = external(tmp_path, location)
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    refused(path, "outside the model's folder")


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin", offset=8)
    (path.parent / "w.bin").write_bytes(b"\0" * 24)
    refused(path, "shorter")


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    refused(onnx.load(external(tmp_path, "w.bin"), load_external_data=False), "give the model's path")


def test_a_header_cannot_ask_for_memory() -> None:
    made = simple()
    made.graph.initializer[0].dims[:] = [10**9, 10**9]
    refused(made, "needs .* bytes, and the file holds 24")
    made.graph.initializer[0].dims[:] = [-3, 2]
    refused(made, "negative length")


def test_a_sparse_header_cannot_ask_for_memory() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [5]), [10**6, 10**6])
    made = simple()
    made.graph.ClearField("initializer")
    made.graph.sparse_initializer.append(sparse)
    refused(made, "lissom expands up to")


@pytest.mark.parametrize("kind", ["ConstantOfShape", "Tile", "Expand"])
def test_folding_does_not_build_absurd_tensors(kind: str) -> None:
    huge = np.array([10**5, 10**5])
    one = random(1, 1)
    nodes = [node(kind, "huge" if kind == "ConstantOfShape" else "one huge", "big"), node("Add", "x two", "y")]
    made = model([*nodes], {"x": ("float", ["n", 3])}, {"y": "float"}, {"huge": huge, "one": one, "two": random(3)})
    read_module(made)  # nothing reads the big one, so it is never made


def test_an_absurd_input() -> None:
    made = model([node("Relu", "x", "y")], {"x": ("float", [10**6, 10**6])}, {"y": "float"}, {})
    refused(made, "declared with shape")


def test_an_unknown_operator_set() -> None:
    made = simple()
    made.opset_import[0].version = 999
    refused(made, "operator set 999")


def test_an_unknown_attribute_and_too_many_inputs() -> None:
    made = model([node("Relu", "x", "y", strength=2)], {"x": ("float", ["n", 3])}, {"y": "float"}, {})
    refused(made, "does not know: strength")
    made = model([node("Relu", "x x", "y")], {"x": ("float", ["n", 3])}, {"y": "float"}, {})
    refused(made, "has 2 inputs, and Relu takes 1")


def test_strings_and_sequences() -> None:
    made = simple()
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    refused(made, "no tensor of floats, integers or booleans")


def test_shapes_that_do_not_fit() -> None:
    refused(simple(w=random(4, 2)), "does not run on its declared inputs")


def test_a_node_that_cannot_be_folded() -> None:
    nodes = [node("Concat", "a b", "c", axis=0), node("Reshape", "x c", "y")]
    made = model(nodes, {"x": ("float", ["n", 3])}, {"y": "float"}, {"a": np.array([[1]]), "b": np.array([1])})
    refused(made, "cannot be computed")
