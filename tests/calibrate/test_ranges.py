"""Ranges of activations: exact ends, constant memory, and the same whatever the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissom.calibrate.ranges import BINS, Observer, observe, ranges_of
from lissom.deploy import Deploy
from lissom.deploy.pipeline import plain
from lissom.errors import DataRefused
from lissom.grids.ranges import RANGES
from lissom.network import Network


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 999), pieces=st.integers(1, 8), growth=st.floats(0.5, 20))
def test_nothing_is_lost_however_the_values_come(seed: int, pieces: int, growth: float) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(size=200).astype(np.float32) * np.float32(growth**index) for index in range(pieces)]
    seen = Observer()
    for part in parts:
        seen.update(part)
    everything = np.concatenate(parts)
    assert (seen.low, seen.high) == (float(everything.min()), float(everything.max()))
    assert int(seen.counts.sum()) == everything.size
    assert len(seen.counts) == BINS
    width = (seen.high - seen.low) / BINS
    median = float(seen.centres()[int((seen.counts.cumsum(0) < everything.size / 2).sum())])
    # Between the two central values any number is a median.
    central = np.sort(everything, axis=None)[[(everything.size - 1) // 2, everything.size // 2]]
    assert central[0] - (pieces + 1) * width <= median <= central[1] + (pieces + 1) * width


@pytest.mark.parametrize("kind", sorted(RANGES))
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_range_has_zero_inside_and_lies_within_what_was_seen(kind: str, symmetric: bool) -> None:
    seen = Observer()
    seen.update(np.random.default_rng(0).gamma(2.0, size=5000).astype(np.float32) - 1)
    (low, high) = ranges_of({"v": seen}, kind, symmetric=symmetric)["v"]
    assert seen.low <= low <= 0 < high <= seen.high


def test_a_constant_value_and_an_empty_one_do_no_harm() -> None:
    constant, empty = Observer(), Observer()
    constant.update(np.full(10, 3.0, np.float32))
    constant.update(np.full(10, 3.0, np.float32))
    empty.update(np.zeros((0, 4), np.float32))
    assert int(constant.counts.sum()) == 20
    assert ranges_of({"v": constant}, "minmax") == {"v": (0.0, 3.0)}
    assert not empty.counts.any()


def test_inside_values_of_a_graph_are_seen_whatever_the_batches() -> None:
    made = Network(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), (torch.zeros(2, 4),))
    graph = plain(made, Deploy()).editor
    hidden = next(node.output[0] for node in graph.nodes if node.op_type == "Relu")
    samples, opened = torch.randn(50, 4), graph.open([hidden])
    whole = observe(opened, ["input", hidden], [(samples.numpy(),)], samples=50, kind=Observer)
    parts = observe(opened, ["input", hidden], [(part.numpy(),) for part in samples.split(7)], samples=50, kind=Observer)
    expected = made.module[:2](samples).detach().numpy()
    for seen in (whole, parts):
        assert seen["input"].high == float(samples.max())
        assert seen[hidden].high == pytest.approx(float(expected.max()), rel=1e-5)
        assert int(seen[hidden].counts.sum()) == 300
    few = observe(opened, [hidden], [(samples.numpy(),)], samples=5, kind=Observer)
    assert int(few[hidden].counts.sum()) == 30


def test_nan_is_refused() -> None:
    with pytest.raises(DataRefused, match="NaN or infinity"):
        Observer().update(np.float32([1, np.nan]))
