"""Rounding: stochastic is unbiased, down is down and stays."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.grids.rounding import down, stochastic


def test_stochastic_rounding_is_unbiased() -> None:
    x = torch.linspace(-2, 2, 41)
    draws = 40_000
    generator = torch.Generator().manual_seed(0)
    mean = torch.stack([stochastic(x, generator) for _ in range(draws)]).mean(0)
    # Five standard errors of a coin with the fraction's probability.
    fraction = x - x.floor()
    assert bool(((mean - x).abs() <= 5 * (fraction * (1 - fraction) / draws).sqrt() + 1e-6).all())


@settings(deadline=None, derandomize=True)
@given(x=st.floats(-1000, 1000, width=32), seed=st.integers(0, 99))
def test_stochastic_rounding_takes_a_neighbour(x: float, seed: int) -> None:
    found = float(stochastic(torch.tensor(x), torch.Generator().manual_seed(seed)))
    assert found in (torch.tensor(x).floor().item(), torch.tensor(x).floor().item() + 1)


@settings(deadline=None, derandomize=True)
@given(level=st.integers(-(2**15), 2**15), scale=st.floats(2.0**-20, 2.0**10, width=32))
def test_down_leaves_a_level_where_it_is(level: int, scale: float) -> None:
    value = torch.tensor(float(level)) * torch.tensor(scale)
    assert float(down(value / torch.tensor(scale))) == level
