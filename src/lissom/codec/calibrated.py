"""Levels with data: where an error costs little in the network's answers, fewer bits; later inputs make up for earlier ones.

The cost of an error E [outputs, inputs] is sum over outputs r of rows[r] * E[r] H E[r]: how much the answers feel output
r, and what the inputs have in common. Inputs are quantized one after another, and what is left of each error moves to
the inputs to come (Frantar et al., GPTQ, arXiv:2210.17323) before these choose their levels by error plus price in bits
(Conzelmann and Bamler, CERWU, arXiv:2505.18758), on the trellis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.codec import trellis
from lissom.codec.directory import pieces
from lissom.codec.lossy import SLOPE, prices
from lissom.codec.tensors import Quantized, Uniform
from lissom.codec.trellis import MACHINES

__all__ = ["Importance", "chance", "important_levels", "shrunk"]

Values = npt.NDArray[np.float64]
FINEST, COARSEST = -16, 16  # row scales lie within 2^-8 to 2^8 of the tensor's, in steps of the square root of 2
DAMPING = 0.01  # of H's mean diagonal, added to it
SHARES = (0.03, 0.1, 0.3, 0.6, 1.0)  # of what inputs have in common that may be chance


@dataclass(frozen=True, eq=False)
class Importance:
    """What an error of a tensor's values costs.

    Args:
        rows: cost of each row's errors [outputs], zero or more.
        inputs: [outputs, width] or [1, width], the cost of each value, in C order, on its own beside its row's.
        moments: [width, width], second moments of the inputs that the row's values meet, in the place of ``inputs``: errors
            of one input can then be made up by others.
    """

    rows: Values
    inputs: Values | None = None
    moments: Values | None = None


def important_levels(array: npt.NDArray[Any], importance: Importance, slope: float, *, states: int = 8) -> Quantized:
    """The levels of ``array`` [outputs, …] whose cost plus ``slope`` * bits is about the least, on one scale per row.

    Args:
        array: finite floats of at least two axes.
        importance: what an error costs.
        slope: the price of a bit; one for all tensors of a network shares its bits where they serve best.
        states: of the trellis.

    >>> weights = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)
    >>> importance = Importance(np.array([100.0] * 4 + [1.0] * 4))
    >>> error = ((important_levels(weights, importance, 0.1).dense() - weights) ** 2).mean(axis=1)
    >>> bool(error[:4].mean() < 0.1 * error[4:].mean())
    True
    """
    rows = len(array)
    values = array.astype(np.float64).reshape(rows, -1)
    factor = None if importance.moments is None else _factor(importance.moments)
    own = np.ones((1, values.shape[1])) if importance.inputs is None else np.maximum(importance.inputs, 1e-30)
    weights = own if factor is None else np.atleast_2d(1 / np.diag(factor) ** 2)
    scale = _scales(importance.rows * weights.mean(axis=1), slope, float(np.abs(values).max(initial=0)))
    values = values / scale[:, None].astype(np.float64)
    cost = np.maximum(importance.rows[:, None], 1e-30) * weights * scale[:, None].astype(np.float64) ** 2 / slope
    levels = np.empty(values.shape, np.int32)
    kernel = int(np.prod(array.shape[2:], dtype=np.int64))
    blocks = [slice(start, start + kernel) for start in range(0, values.shape[1], kernel)]
    bits = prices(np.round(values).astype(np.int32).reshape(-1))
    for last in (False, True):
        if last and factor is not None:
            _fed_back(values.copy(), factor, cost, bits, blocks, array.shape, states, levels)
        else:
            flat = np.ascontiguousarray(np.broadcast_to(cost, values.shape)).reshape(-1), values.reshape(-1), levels.reshape(-1)
            for start, stop in pieces(array.shape):
                costs, wanted, chosen = (each[start:stop] for each in flat)
                trellis.search(wanted, costs, bits, 1.0, states, MACHINES[states], 0, chosen)
        bits = prices(levels.reshape(-1))
    grid = Uniform(scale.reshape(rows, *[1] * (array.ndim - 1)), np.zeros((rows, *[1] * (array.ndim - 1)), np.int32))
    return Quantized(levels.reshape(array.shape), grid, dtype=array.dtype.name, trellis=states)


def shrunk(moments: Values, share: float) -> Values:
    """Second moments without so large a ``share`` of what different inputs have in common."""
    return (1 - share) * moments + share * np.diag(np.diag(moments))


def chance(one: Values, other: Values) -> float:
    """How much of what inputs have in common in ``one`` half of the samples is chance, by what it costs in the ``other``.

    Errors that are fed back by the moments of one half spread over the inputs to come as the rows of its factor say; what
    that costs by the moments of the other half is least at some share. Of both halves together, less is chance.
    """
    costs = []
    for share in SHARES:
        factor = _factor(shrunk(one, share))
        spread = factor / np.diag(factor)[:, None]
        costs.append(float(((spread @ other) * spread).sum()))
    share = SHARES[int(np.argmin(costs))]
    return share / (2 - share)


def _factor(moments: Values) -> Values:
    """The upper triangular U with U'U the inverse of the damped moments: 1 / U[c, c]^2 is what error in c costs at least."""
    damped = moments + np.eye(len(moments)) * max(DAMPING * float(np.diag(moments).mean()), 1e-30)
    return np.linalg.cholesky(np.linalg.inv(damped)).T


def _scales(importance: Values, slope: float, largest: float) -> npt.NDArray[np.float32]:
    """Each row's step: where the price of a bit is worth its error; powers of the square root of 2 times one float16.

    Rows that cost nothing take a step at which every value is zero, or the coarsest beside the row that costs most.
    """
    wanted = np.minimum(np.sqrt(slope / (SLOPE * np.maximum(importance, 1e-30))), min(max(4 * largest, 1e-6), 2.0**14))
    wanted = np.minimum(wanted, wanted.min() * 2.0 ** (COARSEST / 2))
    middle = np.float32(np.float16(max(np.exp(np.median(np.log(wanted))), 1e-6)))
    exponents = np.clip(np.round(2 * np.log2(wanted / middle)), FINEST, COARSEST).astype(np.int64)
    halves = np.array([1.0, 1.4140625], np.float32)  # few mantissa bits, which cost few to send
    scales: npt.NDArray[np.float32] = np.ldexp(middle * halves[exponents & 1], exponents >> 1).astype(np.float32)
    return scales


def _fed_back(
    values: Values,
    factor: Values,
    cost: Values,
    bits: Values,
    blocks: list[slice],
    shape: tuple[int, ...],
    states: int,
    levels: npt.NDArray[np.int32],
) -> None:
    """Choose ``levels`` block by block of inputs; each block's error moves to the blocks after it, a batch at a time."""
    width = values.shape[1]
    batch = max(1, 64 // (blocks[0].stop - blocks[0].start))
    cuts = [(start // width, stop // width) for start, stop in pieces(shape)]
    machine = MACHINES[states]
    admits = [0] * len(cuts)
    for first in range(0, len(blocks), batch):
        group = blocks[first : first + batch]
        end = group[-1].stop
        errors = np.zeros((len(values), end - group[0].start))
        for block in group:
            wanted, weights = values[:, block], np.ascontiguousarray(np.broadcast_to(cost, values.shape)[:, block])
            for number, (top, bottom) in enumerate(cuts):
                part = np.empty((bottom - top) * (block.stop - block.start), np.int32)
                flat = np.ascontiguousarray(wanted[top:bottom]).reshape(-1)
                admits[number] = trellis.search(
                    flat, weights[top:bottom].reshape(-1), bits, 1.0, states, machine, admits[number], part
                )
                levels[top:bottom, block] = part.reshape(bottom - top, -1)
            error = np.linalg.solve(factor[block, block].T, (wanted - levels[:, block]).T).T
            errors[:, block.start - group[0].start : block.stop - group[0].start] = error
            values[:, block.stop : end] -= error @ factor[block, block.stop : end]
        values[:, end:] -= errors @ factor[group[0].start : end, end:]
