"""The passes over all levels that every optimizer step pays for: counts, costs and slopes, and Newton's equations.

A tensor is [rows, columns * kernel] here. A position sees up to four features (of its row, its column, its place in the
kernel and its kernel), each in two tables: the first for dead positions, the second for alive ones, which do not
count themselves.
"""

# mypy: ignore-errors
# The types of the kernels are inferred by numba, for each kind of argument.

from __future__ import annotations

import math

import numpy as np
from numba import njit

__all__ = ["cost", "count", "normal_equations"]

CHUNK = 16
HIGHEST_ODDS = 15.0
"""Where the sixteen factors of a chunk still multiply without overflow."""


@njit(cache=True, nogil=True, fastmath=True)
def count(latents, inverse, kernel, columns, kernels):
    """Alive positions of each row; ``columns`` [columns * kernel] and ``kernels`` [rows, columns] are added to.

    Returns:
        The rows' counts, and the sum of what magnitudes are above one.
    """
    rows, width = latents.shape
    alive_rows = np.zeros(rows, np.float32)
    extra = 0.0
    for r in range(rows):
        row, more = np.float32(0), np.float32(0)
        for j in range(width):
            size = abs(latents[r, j]) * inverse
            alive = np.float32(1) if size > np.float32(0.5) else np.float32(0)
            columns[j] += alive
            row += alive
            more += max(np.rint(size) - np.float32(1), np.float32(0))
        alive_rows[r] = row
        extra += more
        if kernel > 1:
            for c in range(width // kernel):
                total = np.float32(0)
                for k in range(kernel):
                    total += np.float32(1) if abs(latents[r, c * kernel + k]) * inverse > np.float32(0.5) else np.float32(0)
                kernels[r, c] = total
    return alive_rows, extra


@njit(cache=True, nogil=True, fastmath=True)
def cost(latents, inverse, kernel, row_odds, column_odds, kernel_odds, kernels, last, more, slope):
    """Nats of all levels; ``slope`` receives the derivative by each latent.

    ``row_odds`` [2, rows], ``column_odds`` [2, columns * kernel] and ``kernel_odds`` [2, kernel + 1] add up to a
    position's log-odds of being alive; ``last`` is what a sign and magnitude one cost, ``more`` each further magnitude.
    The logarithms of sums of exponentials are taken of products, sixteen at a time.
    """
    rows, width = latents.shape
    nats = 0.0
    dead, living = np.empty(width, np.float32), np.empty(width, np.float32)
    dead_factor, living_factor = np.empty(width, np.float32), np.empty(width, np.float32)
    of_columns = np.exp(column_odds)
    of_kernels = np.exp(kernel_odds)
    for r in range(rows):
        base = np.exp(row_odds[:, r])
        for j in range(width):
            dead[j] = row_odds[0, r] + column_odds[0, j]
            living[j] = row_odds[1, r] + column_odds[1, j]
            dead_factor[j] = base[0] * of_columns[0, j]
            living_factor[j] = base[1] * of_columns[1, j]
        if kernel > 1:
            for j in range(width):
                seen = int(kernels[r, j // kernel])
                dead[j] += kernel_odds[0, seen]
                living[j] += kernel_odds[1, seen]
                dead_factor[j] *= of_kernels[0, seen]
                living_factor[j] *= of_kernels[1, seen]
        spent = np.float32(0)
        for start in range(0, width, CHUNK):
            product = 1.0
            for j in range(start, min(start + CHUNK, width)):
                latent = latents[r, j]
                size = abs(latent) * inverse
                alive = size > np.float32(0.5)
                odds = living[j] if alive else dead[j]
                product *= 1.0 + min(living_factor[j] if alive else dead_factor[j], np.float32(3.2e6))
                spent += last - odds + (np.rint(size) - np.float32(1)) * more if alive else np.float32(0)
                pull = max(last - odds if size < np.float32(1) else more, np.float32(0)) * inverse
                slope[r, j] = -pull if latent < 0 else pull
            nats += math.log(product)
        nats += spent
    return nats


@njit(cache=True, nogil=True, fastmath=True)
def normal_equations(latents, inverse, kernel, coefficients, base, row, column, place, of_kernel, kernels):
    """The gradient and the second derivative of the nats of zero or not, by the constant and the four coefficients."""
    rows, width = latents.shape
    slope, curve = np.zeros(5), np.zeros((5, 5))
    seen = np.ones(5)
    for r in range(rows):
        for j in range(width):
            alive = 1 if abs(latents[r, j]) * inverse > 0.5 else 0
            seen[1] = row[alive, r]
            seen[2] = column[alive, j // kernel]
            seen[3] = place[alive, j % kernel]
            seen[4] = of_kernel[alive, int(kernels[r, j // kernel])] if kernel > 1 else 0.0
            odds = base
            for index in range(5):
                odds += coefficients[index] * seen[index]
            chance = 1 / (1 + math.exp(-min(odds, HIGHEST_ODDS)))
            spread = chance * (1 - chance)
            for index in range(5):
                slope[index] += (chance - alive) * seen[index]
                for other in range(index + 1):
                    curve[index, other] += spread * seen[index] * seen[other]
    return slope, curve + curve.T - np.diag(np.diag(curve))
