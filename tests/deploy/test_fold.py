"""Batch-norm folding: exact where it is done, refused where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lissom.deploy import deploy
from lissom.deploy.fold import Folding, fold_batch_norm
from lissom.edits import attach
from lissom.grids import Affine
from lissom.network import Network


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("residual", {("first.0", "first.1", True), ("depthwise.1", "depthwise.2", True), ("last.0", "last.1", True)}),
        ("transposed", {("conv", "before", False), ("up", "norm", True), ("linear", "flat", True)}),
        ("twice", set()),
        ("tied", set()),
    ],
)
def test_exactly_these_pairs_are_folded_and_nothing_changes(
    name: str, expected: set[tuple[str, str, bool]], network: Any
) -> None:
    made = network(name)
    before = made.outputs(*made.example_inputs)
    folded = fold_batch_norm(made.module, made.example_inputs)
    assert {(pair.layer, pair.norm, pair.after) for pair in folded} == expected
    for a, b in zip(before, made.outputs(*made.example_inputs), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_a_norm_before_a_padded_convolution_stays(settle: Any) -> None:
    module = settle(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)))
    assert fold_batch_norm(module, (torch.randn(2, 3, 6, 6),)) == []


def test_a_layer_whose_output_goes_elsewhere_too_is_not_folded(settle: Any) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.other, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(self.other(self.norm(y))) + y

    module = settle(Shared())
    assert fold_batch_norm(module, (torch.randn(2, 3, 6, 6),)) == [Folding("other", "last", after=True)]


def test_a_tensor_changed_in_place_in_between_is_not_folded(settle: Any) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).relu_())

    assert fold_batch_norm(settle(InPlace()), (torch.randn(2, 3, 6, 6),)) == []


def test_a_weight_on_a_grid_keeps_its_levels_and_a_folded_one_loses_its_name(network: Any) -> None:
    made = network("residual")
    attach(made.module, "last.0.weight", grid=Affine.fit(made.module.last[0].weight, bits=8, channel_axis=0))
    names = {tensor.name for tensor in deploy(made).model.graph.initializer}
    assert {"last.0.weight.levels", "last.0.weight.scale", "last.1.running_var", "first.0.folded.weight"} <= names
    assert not {"first.0.weight", "first.1.weight", "last.0.weight"} & names


def test_the_network_that_is_deployed_stays_as_it_was(network: Any) -> None:
    made = network("residual")
    before = {name: tensor.clone() for name, tensor in made.module.state_dict().items()}
    deploy(made)
    assert isinstance(made.module.first[1], nn.BatchNorm2d)
    for name, tensor in made.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_network_with_masks_keeps_its_zeros(network: Any) -> None:
    made = network("residual")
    mask = torch.rand_like(made.module.first[0].weight) > 0.7
    attach(made.module, "first.0.weight", mask=mask)
    folded = Network(made.module, made.example_inputs)
    held = {tensor.name: tensor for tensor in deploy(folded).model.graph.initializer}
    from onnx import numpy_helper

    values = torch.from_numpy(numpy_helper.to_array(held["first.0.folded.weight"]).copy())
    assert torch.equal(values != 0, mask)
