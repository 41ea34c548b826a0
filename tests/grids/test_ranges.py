"""Ranges against their definitions, and histograms against the points that they count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.grids import Affine
from lissom.grids.ranges import RANGES, percentile, squared_error_optimal, standard_deviations


@pytest.mark.parametrize("name", sorted(RANGES))
@settings(deadline=None, derandomize=True, max_examples=25)
@given(seed=st.integers(0, 999), bits=st.integers(2, 8), symmetric=st.booleans())
def test_what_is_covered_occurs(name: str, seed: int, bits: int, symmetric: bool) -> None:
    points = torch.randn(3, 200, generator=torch.Generator().manual_seed(seed))
    low, high = RANGES[name](points, bits, symmetric)
    assert low.shape == high.shape == (3,)
    assert bool((low <= high).all())
    bound = points.abs().amax(1)
    assert bool((low >= -bound - 1e-6).all())
    assert bool((high <= bound + 1e-6).all())


@pytest.mark.parametrize("name", sorted(RANGES))
@pytest.mark.parametrize("symmetric", [False, True])
def test_counts_stand_for_repeated_points(name: str, symmetric: bool) -> None:
    points = torch.randn(2, 40)
    counts = torch.randint(0, 4, (2, 40)).float()
    rows = [row.repeat_interleave(times.int()) for row, times in zip(points, counts, strict=True)]
    for row, values in enumerate(rows):
        weighted = RANGES[name](points[row : row + 1], 4, symmetric, counts[row : row + 1])
        plain = RANGES[name](values[None], 4, symmetric)
        assert torch.allclose(torch.cat(weighted), torch.cat(plain), atol=1e-5)


def test_deviations_by_hand() -> None:
    points = torch.tensor([[1.0, 3.0, 1.0, 3.0, -10.0, 14.0]])
    mean, deviation = points.mean(), points.std(correction=0)
    low, high = standard_deviations(points, 8, False, k=1.0)
    assert torch.allclose(torch.cat([low, high]), torch.stack([mean - deviation, mean + deviation]))


def test_percentiles_drop_outliers_of_either_sign() -> None:
    points = torch.cat([torch.linspace(-1, 1, 9999), torch.tensor([-50.0])])[None]
    low, high = percentile(points, 8, True, share=0.999)
    assert float(high) == pytest.approx(0.999, abs=2e-3)
    assert float(low) == -float(high)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_range_of_least_error_beats_the_whole_range(bits: int, symmetric: bool) -> None:
    weight = torch.distributions.StudentT(3.0).sample((8, 500))
    errors = {
        name: float(
            (Affine.fit(weight, bits=bits, symmetric=symmetric, channel_axis=0, range=name)(weight) - weight).square().sum()
        )
        for name in RANGES
    }
    assert errors["mse"] <= min(errors.values()) * 1.02
    assert bits == 8 or errors["mse"] < errors["minmax"]


def test_the_search_is_near_the_optimum_of_a_normal_distribution() -> None:
    """Max (1960): the best uniform quantiser of 16 levels has steps of 0.3352 standard deviations."""
    weight = torch.randn(1, 200_000)
    low, high = squared_error_optimal(weight, 4, False)
    assert float(high - low) / 15 == pytest.approx(0.3352, rel=0.1)
