"""What every grid promises, whatever its formula."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.errors import DataRefused, UsageError
from lissom.grids import (
    Affine,
    Binary,
    Cast,
    Codebook,
    FixedPoint,
    Grid,
    Half,
    LearnedAffine,
    Linear,
    MinMax,
    PowerOfTwo,
    RangeMapping,
    Ternary,
)
from lissom.grids.fitting import FITS, Wanted

NAMES = sorted(FITS)
SMALLEST = {"affine": 2, "fixed-point": 2, "nested-scales": 2, "power-of-two": 2}

weights = st.tuples(
    st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 999), st.integers(-4, 3), st.sampled_from([0.0, 0.3, 1.0])
)
wanted = st.builds(
    Wanted,
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    channel_axis=st.sampled_from([None, 0, -1]),
    group=st.sampled_from([None, 1, 2, 5]),
    range=st.sampled_from(["minmax", "std", "percentile", "mse"]),
    rounding=st.sampled_from(["nearest", "floor"]),
)


def drawn(shape: list[int], seed: int, magnitude: int, zeros: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * 10.0**magnitude
    return torch.where(torch.rand(shape, generator=generator) < zeros, 0.0, values)


def decoded(grid: Grid, levels: Tensor) -> np.ndarray:
    decoding = grid.decoding()
    if isinstance(decoding, Cast):
        return grid.values(levels).to(decoding.dtype).float().numpy()
    return decoding.decode(levels.numpy())


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, derandomize=True, max_examples=60)
@given(spec=weights, want=wanted)
def test_levels_decode_exactly_and_stay(name: str, spec: tuple[list[int], int, int, float], want: Wanted) -> None:
    weight = drawn(*spec)
    grid = FITS[name](weight, want)
    levels = grid.levels(weight)
    assert levels.dtype is torch.int32
    assert levels.shape == weight.shape
    values = grid.values(levels)
    assert values.dtype is torch.float32
    assert values.numpy().tobytes() == decoded(grid, levels).tobytes()
    assert torch.equal(grid(weight).detach(), values)
    assert torch.equal(grid.levels(values), levels) or torch.equal(grid.values(grid.levels(values)), values)
    assert bool(torch.isfinite(values).all())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_weights(name: str) -> None:
    weight = torch.randn(4, 6, requires_grad=True)
    factor = torch.randn(4, 6)
    (FITS[name](weight.detach(), Wanted(bits=4))(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


NEAREST = ("affine", "linear", "min-max", "range-mapping", "fixed-point", "double-linear", "nested-scales", "float16", "bfloat16")


@pytest.mark.parametrize("name", NEAREST)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(seed=st.integers(0, 999), bits=st.integers(2, 10))
def test_no_other_level_is_nearer(name: str, seed: int, bits: int) -> None:
    weight = drawn([5, 4], seed, 0, 0.0)
    grid = FITS[name](weight, Wanted(bits=bits))
    levels = grid.levels(weight)
    error = (grid.values(levels) - weight).abs()
    for step in (-1, 1):
        # A neighbour beyond the end of a table is no level.
        beside = levels + step
        highest = len(grid.table) - 1 if hasattr(grid, "table") else 2**15 - 1
        lowest = 0 if hasattr(grid, "table") else -(2**15)
        allowed = (beside >= lowest) & (beside <= highest) & _inside(grid, beside)
        other = (grid.values(torch.where(allowed, beside, levels)) - weight).abs()
        assert bool((error <= other * (1 + 1e-5) + 1e-7).all())


def _inside(grid: Grid, levels: Tensor) -> Tensor:
    if isinstance(grid, Affine):
        return (levels >= grid.lowest) & (levels <= grid.highest)
    if isinstance(grid, FixedPoint):
        return (levels >= -(2 ** (grid.bits - 1))) & (levels < 2 ** (grid.bits - 1))
    return levels == levels if not isinstance(grid, Half) else torch.zeros_like(levels, dtype=torch.bool)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("binary", "ternary", "float16", "bfloat16")])
def test_more_bits_are_not_worse(name: str) -> None:
    weight = torch.randn(16, 16)
    errors = [
        float((FITS[name](weight, Wanted(bits=bits))(weight).detach() - weight).square().mean()) for bits in (2, 3, 4, 6, 8)
    ]
    assert all(later <= earlier * 1.001 for earlier, later in pairwise(errors))


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_empty_channels_are_held(name: str) -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [2.5, 2.5, 2.5], [-1.0, 0.0, 1.0]])
    values = FITS[name](weight, Wanted(bits=6))(weight).detach()
    assert bool(torch.isfinite(values).all())
    if name not in ("linear", "min-max", "range-mapping", "double-linear", "binary"):  # no exact zero in their formulas
        assert values[0].tolist() == [0, 0, 0]
    zero = torch.zeros(2, 2)
    assert float(FITS[name](zero, Wanted(bits=4))(zero).detach().abs().max()) == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    with pytest.raises(DataRefused, match="NaN or infinity"):
        FITS[name](torch.tensor([[1.0, bad]]), Wanted(bits=4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Affine.fit(torch.ones(2), bits=1),
        lambda: Affine.fit(torch.ones(2), bits=8, channel_axis=1),
        lambda: Linear(1.0, 0.0, bits=17),
        lambda: MinMax(0.0, 1.0, bits=0),
        lambda: FixedPoint(3, bits=1),
        lambda: PowerOfTwo(0, bits=9),
        lambda: PowerOfTwo(0, bits=4, base=1.0),
        lambda: RangeMapping(0.0, 1.0, onto=(3, 3)),
        lambda: Half(torch.float32),
        lambda: Codebook(torch.zeros(0), torch.zeros(2)),
    ],
)
def test_grids_out_of_range_are_refused(build) -> None:
    with pytest.raises(UsageError, match=r"takes|must|give"):
        build()


def test_float16_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(DataRefused, match="70000 is beyond 65504"):
        FITS["float16"](torch.tensor([7e4]), Wanted())
    assert FITS["bfloat16"](torch.tensor([7e4]), Wanted())(torch.tensor([7e4])).item() == 70144


@settings(deadline=None, derandomize=True, max_examples=60)
@given(pattern=st.integers(0, 2**16 - 1), kind=st.sampled_from([torch.float16, torch.bfloat16]))
def test_half_levels_are_bit_patterns(pattern: int, kind: torch.dtype) -> None:
    grid = Half(kind)
    value = grid.values(torch.tensor([pattern], dtype=torch.int32))
    if bool(torch.isfinite(value).all()):
        assert grid.levels(value).tolist() == [pattern]


def test_binary_has_the_scale_of_least_squared_error() -> None:
    weight = torch.randn(6, 20)
    grid = Binary.fit(weight, channel_axis=0)
    values = grid(weight).detach()
    error = float((values - weight).square().sum())
    for factor in (0.9, 1.1):
        assert float((values * factor - weight).square().sum()) > error


def test_ternary_follows_the_papers_rule() -> None:
    weight = torch.randn(6, 20)
    grid = Ternary.fit(weight)
    threshold = 0.7 * float(weight.abs().mean())
    assert torch.equal(grid.levels(weight), torch.where(weight.abs() > threshold, weight.sign(), 0.0).int())
    assert float(grid.scale.detach()) == pytest.approx(float(weight.abs()[weight.abs() > threshold].mean()))


@pytest.mark.parametrize("kind", [Binary, Ternary])
def test_scales_are_trained(kind: type[Binary] | type[Ternary]) -> None:
    weight, factor = torch.randn(3, 5), torch.randn(3, 5)
    grid = kind.fit(weight, channel_axis=0)
    (grid(weight) * factor).sum().backward()
    expected = (factor * grid.levels(weight)).sum(1, keepdim=True) * grid.scale  # of the scale's logarithm
    assert torch.allclose(grid.log_ratio.grad, expected, atol=1e-6)


def test_a_trained_scale_never_changes_its_sign() -> None:
    weight = torch.randn(4, 6)
    grid = Binary.fit(weight)
    optimizer = torch.optim.Adam(grid.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        grid(weight).mul(weight).sum().backward()
        optimizer.step()
    assert 0 < float(grid.scale.detach()) < 0.1


def test_powers_of_two_are_powers_of_two() -> None:
    weight = torch.randn(200)
    grid = PowerOfTwo.fit(weight, bits=4)
    magnitudes = grid(weight).abs()
    exponents = magnitudes[magnitudes > 0].log2()
    assert torch.equal(exponents, exponents.round())
    ratio = (grid(weight) / weight).abs()[magnitudes > 0]
    size = weight.abs()[magnitudes > 0]
    inside = (size <= 2.0**grid.highest * 2**0.5) & (size >= 2.0 ** (grid.highest - grid.count + 1) / 2**0.5)
    assert bool((ratio[inside] <= 2**0.5 + 1e-5).all())


def test_a_learned_step_moves_to_where_the_error_is_least() -> None:
    weight = torch.randn(4, 200)
    grid = LearnedAffine(torch.full((4, 1), 0.05), -7, 7)
    optimizer = torch.optim.Adam(grid.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (grid(weight) - weight).square().mean().backward()
        optimizer.step()
    errors = [
        (Affine(grid.scale.detach() * f, torch.zeros(4, 1), -7, 7)(weight) - weight).square().mean() for f in (0.8, 1, 1.25)
    ]
    assert float(errors[1]) < min(float(errors[0]), float(errors[2]))
    assert torch.equal(grid(weight), grid.values(grid.levels(weight)))
