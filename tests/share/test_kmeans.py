"""One-dimensional k-means: the exact one against every partition, the others against it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.errors import UsageError
from lissom.share.kmeans import EXACT_ENTRIES, STARTS, assign, kmeans


def squared_error(values: np.ndarray, centroids: np.ndarray, counts: np.ndarray | None = None) -> float:
    gaps = (values - centroids[assign(values, centroids)]) ** 2
    return float((gaps if counts is None else gaps * counts).sum())


def best_of_all_partitions(values: np.ndarray, counts: np.ndarray, entries: int) -> float:
    order = np.argsort(values)
    values, counts = values[order], counts[order]
    best = np.inf
    for inner in combinations(range(1, len(values)), entries - 1):
        error = 0.0
        for first, last in zip((0, *inner), (*inner, len(values)), strict=True):
            part, weight = values[first:last], counts[first:last]
            error += float((weight * (part - np.average(part, weights=weight)) ** 2).sum())
        best = min(best, error)
    return best


@settings(deadline=None, derandomize=True, max_examples=120)
@given(
    values=st.lists(st.floats(-100, 100), min_size=3, max_size=9, unique=True),
    entries=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_exact_is_the_best_of_all_partitions(values: list[float], entries: int, seed: int) -> None:
    points = np.array(values)
    counts = np.random.default_rng(seed).integers(1, 5, len(points)).astype(float)
    found = kmeans(points, min(entries, len(points)), start="exact", counts=counts)
    best = best_of_all_partitions(points, counts, min(entries, len(points)))
    assert squared_error(points, found, counts) <= best * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("start", sorted(STARTS))
def test_other_starts_end_where_nothing_moves_and_never_below_the_optimum(start: str) -> None:
    values = np.random.default_rng(0).standard_t(3, 5000)
    found = kmeans(values, 16, start=start)
    members = assign(values, found)
    means = np.array([values[members == entry].mean() for entry in range(len(found))])
    assert np.allclose(found, means)
    assert np.all(np.diff(found) > 0)
    assert squared_error(values, kmeans(values, 16, start="exact")) <= squared_error(values, found) * (1 + 1e-9)


def test_exact_on_more_points_than_it_looks_at_is_close_to_the_optimum_of_a_normal_distribution() -> None:
    """Max (1960): 16 levels of a normal source leave 0.009497 of its variance."""
    values = np.random.default_rng(0).normal(size=200_000)
    found = kmeans(values, 16, start="exact")
    assert squared_error(values, found) / len(values) == pytest.approx(0.009497, rel=0.02)


def test_few_distinct_values_are_kept_as_they_are() -> None:
    values = np.array([0.1, -3.0, 0.1, 7.0])
    for start in (*STARTS, "exact"):
        assert kmeans(values, 8, start=start).tolist() == [-3.0, 0.1, 7.0]


def test_counts_weigh() -> None:
    assert kmeans(np.array([0.0, 1.0]), 1, counts=np.array([3.0, 1.0])).tolist() == [0.25]


def test_far_from_zero_no_digits_are_lost() -> None:
    values = 1e6 + np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])
    assert np.allclose(kmeans(values, 2, start="exact"), 1e6 + np.array([0.1, 5.1]))


def test_exact_has_a_limit() -> None:
    with pytest.raises(UsageError, match="at most 1024"):
        kmeans(np.arange(5000.0), EXACT_ENTRIES + 1, start="exact")


def test_assign_is_nearest() -> None:
    values = np.random.default_rng(1).normal(size=300)
    centroids = np.sort(np.random.default_rng(2).normal(size=7))
    assert np.array_equal(assign(values, centroids), np.abs(values[:, None] - centroids).argmin(1))
