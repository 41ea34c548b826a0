"""Verify: a file that answers differently is never handed over, and the place is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lissom.deploy import Deployed, Parity, deploy, verify
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
        ("last.0.folded.weight", r"the first node whose output departs is conv_2 \(Conv\)"),
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


def test_one_turned_tie_among_few_samples_is_parity_and_two_are_not() -> None:
    outputs = np.eye(50, dtype=np.float32) * 50 + 1
    for count, holds in ((0, True), (1, True), (2, False)):
        turned = outputs.copy()
        for row in range(count):
            turned[row, row + 1] = 51.001
        assert compare([(turned,)], [(outputs,)], runtime="r", kind="integer").agreement == 1 - count / 50
        parity = Parity("r", "integer", 0.0, 1.0, 1 - count / 50, 50)
        assert parity.holds is holds


def test_embeddings_agree_by_their_cosine_and_not_by_their_largest_entry() -> None:
    random = np.random.default_rng(0)
    expected = np.concatenate([np.full((64, 2), 1.0), random.normal(size=(64, 30)) / 10], 1)
    got = expected + random.normal(size=expected.shape) / 1000  # which of the two equal entries is larger is chance
    as_classes, as_numbers = (
        compare([(got,)], [(expected,)], runtime="onnxruntime", kind="integer", classes=classes) for classes in (True, False)
    )
    assert not as_classes.holds
    assert as_numbers.holds
    assert as_numbers.agreement == 1.0
    got[:2] = -got[:2]  # two samples that point elsewhere are two too many
    assert not compare([(got,)], [(expected,)], runtime="onnxruntime", kind="integer", classes=False).holds
