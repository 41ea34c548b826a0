"""Weights on grids: the file holds the very levels, and decodes them to the very values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lissom import edits
from lissom.codec.tensors import Quantized, Uniform
from lissom.deploy import deploy, verify
from lissom.deploy.editing import Editor
from lissom.deploy.weights import level_type, place_quantized
from lissom.grids import Affine, Codebook
from lissom.network import Network
from lissom.runtimes import open_file

KINDS = {2: TensorProto.INT4, 4: TensorProto.INT4, 8: TensorProto.INT8, 12: TensorProto.INT16}


@pytest.mark.parametrize("bits", sorted(KINDS))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_affine_levels_are_stored_in_the_smallest_integer_type(bits: int, axis: int | None) -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    edits.attach(module, "0.weight", grid=Affine.fit(module[0].weight, bits=bits, channel_axis=axis))
    made = Network(module, (torch.randn(2, 8),))
    deployed = deploy(made)
    held = {tensor.name: tensor for tensor in deployed.model.graph.initializer}
    assert held["0.weight.levels"].data_type == KINDS[bits]
    stored = edits.tensors(module)["0.weight"]
    assert isinstance(stored, Quantized)
    np.testing.assert_array_equal(numpy_helper.to_array(held["0.weight.levels"]).astype(np.int32), stored.levels)
    assert verify(deployed, made, [(torch.randn(40, 8),)]).holds


def test_unsigned_levels_have_their_zero_point() -> None:
    module = nn.Linear(8, 6)
    edits.attach(module, "weight", grid=Affine.fit(module.weight, bits=8, symmetric=False))
    made = Network(module, (torch.randn(2, 8),))
    deployed = deploy(made)
    kinds = {tensor.name: tensor.data_type for tensor in deployed.model.graph.initializer}
    assert kinds["weight.levels"] == kinds["weight.zero_point"] == TensorProto.UINT8
    assert verify(deployed, made, [(torch.randn(40, 8),)]).holds


def test_a_codebook_becomes_indices_and_a_table_and_the_file_is_small() -> None:
    module = nn.Linear(64, 64)
    table = torch.linspace(-1, 1, 16)
    edits.attach(module, "weight", grid=Codebook(table, torch.randint(0, 16, (64, 64))))
    made = Network(module, (torch.randn(2, 64),))
    deployed = deploy(made)
    assert [node.op_type for node in deployed.model.graph.node] == ["Cast", "Gather", "Gemm"]
    assert verify(deployed, made, [(torch.randn(40, 64),)]).holds
    assert len(deployed.to_bytes()) < 64 * 64 + 1000


def test_a_masked_codebook_without_a_zero_gets_one() -> None:
    module = nn.Linear(8, 8)
    mask = torch.rand(8, 8) > 0.5
    edits.attach(module, "weight", grid=Codebook(torch.tensor([-1.0, 1.0]), torch.randint(0, 2, (8, 8))), mask=mask)
    made = Network(module, (torch.randn(2, 8),))
    deployed = deploy(made)
    assert verify(deployed, made, [(torch.randn(40, 8),)]).holds


@pytest.mark.parametrize("name", ["tied", "recurrent", "twice"])
def test_grids_on_tied_recurrent_and_shared_weights(name: str, network: Any, batch: Any) -> None:
    made = network(name)
    for parameter, weight in list(edits.weights(made.module)):
        if weight.ndim >= 2:
            edits.attach(made.module, parameter, grid=Affine.fit(weight, bits=8, channel_axis=0))
    deployed = deploy(made)
    assert verify(deployed, made, [batch(made, 40)]).holds
    assert sum(tensor.name.endswith(".levels") for tensor in deployed.model.graph.initializer) == len(edits.edited(made.module))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    scales=st.tuples(st.sampled_from(["one", "all", "group"]), st.sampled_from(["one", "all", "group"])),
    seed=st.integers(0, 99),
    swapped=st.booleans(),
)
def test_any_uniform_decoding_survives_the_graph(
    shape: tuple[int, int], scales: tuple[str, str], seed: int, swapped: bool
) -> None:
    random = np.random.default_rng(seed)
    # DequantizeLinear takes blocks whose number is the length over the block size, rounded up.
    grouped = [{"one": 1, "all": length, "group": -(-length // 2)}[kind] for kind, length in zip(scales, shape, strict=True)]
    stored = Quantized(
        random.integers(-8, 8, shape).astype(np.int32),
        Uniform(random.uniform(0.1, 1, grouped).astype(np.float32), random.integers(-2, 3, grouped).astype(np.int32)),
    )
    order = (1, 0) if swapped else (0, 1)
    rows = shape[order[0]]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(stored.dense().transpose(order)), "w")],
    )
    editor = Editor(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    place_quantized(editor, "w", stored, order)
    # With optimisations, ONNX Runtime sums products of levels before it scales them.
    got = open_file(editor.close().SerializeToString(), optimize=False)(np.eye(rows, dtype=np.float32))[0]
    np.testing.assert_array_equal(got, stored.dense().transpose(order))


def test_level_types() -> None:
    assert np.dtype(level_type(-8, 7)).name == "int4"
    assert np.dtype(level_type(0, 15)).name == "uint4"
    assert np.dtype(level_type(-128, 127)) == np.int8
    assert np.dtype(level_type(0, 255)) == np.uint8
    assert np.dtype(level_type(-1, 200)) == np.int16
    assert np.dtype(level_type(-1, 2**16)) == np.int32
