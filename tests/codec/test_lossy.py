"""Levels chosen by error and price: they follow their trellis, keep what they promise, and go where errors cost little."""

from __future__ import annotations

import numpy as np
import pytest

from lissom.codec import encode, trellis
from lissom.codec.calibrated import Importance, important_levels
from lissom.codec.directory import CHUNK, pieces
from lissom.codec.lossy import rate_distortion_levels


@pytest.mark.parametrize("states", [states for states in trellis.MACHINES if states])
def test_every_machine_admits_what_its_search_chooses_and_more_states_err_less(states):
    values = np.random.default_rng(0).normal(0, 4, 4000)
    levels = np.empty(4000, np.int32)
    machine = trellis.MACHINES[states]
    trellis.search(values, np.ones(1), np.zeros((2, 64)), 0.0, states, machine, 0, levels)
    assert trellis.admitted(levels.reshape(1, -1, 1), machine)
    assert ((levels - values) ** 2).mean() < 0.27  # a grid of step 2 errs by 0.333
    indices = levels >> 1
    trellis.from_indices(indices, machine)
    assert (indices == levels).all()


def test_pieces_of_a_large_tensor_start_their_trellis_anew():
    shape = (3, CHUNK // 2)
    assert pieces(shape) == [(0, CHUNK), (CHUNK, 3 * CHUNK // 2)]
    levels = np.zeros(shape, np.float32)
    levels[2] = 5.0
    coded = rate_distortion_levels(levels, 3.0, states=4)
    assert coded.levels.any()
    assert len(encode({"w": coded}, effort="fast")) < 6000


def test_rows_that_matter_more_get_finer_steps():
    weights = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    rows = np.repeat([1.0, 64.0], 16)
    found = important_levels(weights, Importance(rows), 0.05)
    error = ((found.dense() - weights) ** 2).mean(axis=1)
    assert error[16:].mean() < 0.1 * error[:16].mean()
    assert found.decoding.scale.shape == (32, 1)


def test_rows_that_cost_nothing_spoil_no_other():
    weights = np.random.default_rng(0).normal(size=(2, 400)).astype(np.float32)
    found = important_levels(weights, Importance(np.array([1.0, 0.0])), 1e-4).dense()
    assert ((found[0] - weights[0]) ** 2).mean() < 1e-3
    for rows in (np.zeros(2), np.full(2, 1e-300)):
        assert not important_levels(weights, Importance(rows), 1e-4).dense().any()


@pytest.mark.parametrize("shape", [(48, 32), (24, 8, 2, 2)])
def test_errors_that_later_inputs_make_up_for_cost_less(shape):
    random = np.random.default_rng(0)
    weights = random.normal(size=shape).astype(np.float32)
    seen = random.normal(size=(500, 4)) @ random.normal(size=(4, 32)) + 0.1 * random.normal(size=(500, 32))
    moments = seen.T @ seen / len(seen)

    def paid(importance: Importance, slope: float) -> float:
        found = important_levels(weights, importance, slope)
        error = (found.dense() - weights).reshape(shape[0], -1)
        return float(np.einsum("rc,cd,rd->", error, moments, error)) + slope * 8 * len(encode({"w": found}))

    for slope in (1e-4, 1e-3, 1e-2):
        alone = paid(Importance(np.ones(shape[0]), np.diag(moments)[None]), slope)
        together = paid(Importance(np.ones(shape[0]), moments=moments), slope)
        assert together < alone, slope
