"""Cells and the layout of scales, against the archive's own rule for spreading them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.codec.tensors import spread as spread_array
from lissom.grids import Affine
from lissom.grids.cells import Cells, spread


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    channel=st.none() | st.integers(-4, 3),
    group=st.none() | st.integers(1, 8),
)
def test_the_scale_of_each_weight_is_that_of_its_cell(shape: list[int], channel: int | None, group: int | None) -> None:
    if channel is not None and not -len(shape) <= channel < len(shape):
        channel = None
    cells = Cells(channel, group)
    weight = torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    rows = cells.rows(weight)
    numbers = cells.fold(torch.arange(len(rows)), weight)
    assert numbers.ndim == weight.ndim
    each = spread(numbers, weight).expand(shape)
    assert np.array_equal(each.numpy(), np.broadcast_to(spread_array(numbers.numpy(), tuple(shape)), shape))
    for number, row in enumerate(rows):
        assert sorted(weight[each == number].tolist()) == sorted(row[row > 0].tolist())


def test_groups_along_the_inputs() -> None:
    weight = torch.randn(4, 10)
    grid = Affine.fit(weight, bits=4, channel_axis=0, group=4)
    assert grid.scale.shape == (4, 3)
    assert torch.allclose(grid.scale[:, 0] * 7, weight[:, :4].abs().amax(1))
    assert torch.allclose(grid.scale[:, 2] * 7, weight[:, 8:].abs().amax(1))
    per_channel = Affine.fit(weight, bits=4, channel_axis=0)
    assert (grid(weight) - weight).square().sum() < (per_channel(weight) - weight).square().sum()


def test_groups_of_a_kernel_that_counts_outputs_last() -> None:
    weight = torch.randn(6, 5)
    turned = Affine.fit(weight, bits=4, channel_axis=1, group=2)
    straight = Affine.fit(weight.T.contiguous(), bits=4, channel_axis=0, group=2)
    assert turned.scale.shape == (3, 5)
    assert torch.equal(turned(weight), straight(weight.T.contiguous()).T)
