"""Roundings by second order: never worse than what they start from, and on the lattice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lissom.calibrate.second_order import Lattice, Statistics, adaround, descent, gptq, nearest, refitted


def _problem(seed: int, groups: int = 2, outputs: int = 5, inputs: int = 12) -> tuple[Tensor, Tensor, Lattice]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 200, inputs, generator=generator) @ torch.randn(groups, inputs, inputs, generator=generator)
    rows = torch.randn(groups, outputs, inputs, generator=generator)
    scale = rows.abs().amax(2, keepdim=True) / 7
    return rows, (x.transpose(1, 2) @ x / 200).double(), Lattice(scale.expand_as(rows), -7, 7)


def _error(values: Tensor, rows: Tensor, h: Tensor) -> float:
    gap = (values - rows).double()
    return float(((gap @ h) * gap).sum())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_gptq_is_on_the_lattice_and_beats_rounding_to_nearest(seed: int) -> None:
    rows, h, lattice = _problem(seed)
    values = gptq(rows, h, lattice)
    assert torch.equal(lattice.nearest(values), values)
    assert float((values / lattice.scale).abs().max()) < 7.01
    assert _error(values, rows, h) < _error(nearest(rows, h, lattice), rows, h)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000))
def test_a_descent_never_makes_it_worse(seed: int) -> None:
    rows, h, lattice = _problem(seed)
    start = lattice.nearest(torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)))
    after = descent(rows, h.float(), start, lattice)
    assert torch.equal(lattice.nearest(after), after)
    assert _error(after, rows, h) <= _error(start, rows, h) * (1 + 1e-4)


def test_adaround_goes_up_or_down_and_beats_rounding_to_nearest() -> None:
    rows, h, lattice = _problem(3)
    values = adaround(rows, h, lattice)
    assert float(((values - rows) / lattice.scale).abs().max()) < 1.001
    assert _error(values, rows, h) < 0.8 * _error(nearest(rows, h, lattice), rows, h)


@pytest.mark.parametrize("method", [gptq, adaround, nearest])
def test_what_is_masked_stays_zero(method: Any) -> None:
    rows, h, lattice = _problem(4)
    kept = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    values = method(rows, h, Lattice(lattice.scale, -7, 7, kept))
    assert bool((values[~kept] == 0).all())


@pytest.mark.parametrize("method", [gptq, adaround])
def test_inputs_that_never_vary_do_no_harm(method: Any) -> None:
    rows, h, lattice = _problem(5)
    h[:, 3] = 0
    h[:, :, 3] = 0
    assert bool(torch.isfinite(method(rows, h * 0, lattice)).all())
    values = method(rows, h, lattice)
    assert float(((values - rows) / lattice.scale)[..., 3].abs().max()) < 1.001


def test_refitting_makes_up_for_inputs_that_changed() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1, 4, 6, generator=generator)
    x = torch.randn(1, 500, 6, generator=generator)
    arrived = x * 0.5
    y = x @ rows.transpose(1, 2)
    found = Statistics(
        (arrived.transpose(1, 2) @ arrived / 500).double(), (y.transpose(1, 2) @ arrived / 500).double(),
        torch.zeros(1, 6), torch.zeros(1, 4),
    )  # fmt: skip
    torch.testing.assert_close(refitted(rows, found, 1e-6), rows * 2, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(refitted(rows, found, 1e6), rows, rtol=1e-3, atol=1e-3)
