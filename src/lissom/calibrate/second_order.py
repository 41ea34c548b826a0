"""Second order: what rounding a layer's weights does to its outputs, and the roundings that keep it least.

On the inputs X that a layer really gets, weights Q in the place of W change the outputs by ``(Q - W) X``, whose squared length is
``(Q - W) H (Q - W)'`` with ``H = X X'``. The sums H and Y X' are all that is needed of the data: they take the memory of
one layer, however many samples are streamed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lissom.calibrate.layers import Layer

__all__ = ["ROUNDINGS", "Lattice", "Statistics", "adaround", "gptq", "mean_error", "nearest", "refitted", "statistics"]

ROWS_PER_UNKNOWN = 8
LEAST_ROWS = 4096
DAMPING = 0.01
"""Added to the diagonal of H, relative to its mean (GPTQ's choice)."""

AVERAGED = 2**15
"""Positions that mean errors are taken over, at most."""

RARE = 64
"""Positions of no error that are counted with each output: what is hardly ever felt says little."""

FLOOR = 1e-3
"""Variance that every input is taken to have, relative to the mean square of the inputs."""


@dataclass(frozen=True)
class Statistics:
    """Sums over the positions that a layer sees, for each group of channels.

    Args:
        covariance: Of its inputs: [groups, inputs, inputs], float64.
        common: Covariance of the wanted outputs and its inputs: [groups, outputs, inputs].
        mean: Mean input: [groups, inputs].
        answer: Mean wanted output: [groups, outputs].
        halves: The covariance by every second batch and by the others, where asked for; None of a single batch.
    """

    covariance: Tensor
    common: Tensor
    mean: Tensor
    answer: Tensor
    halves: tuple[Tensor, ...] | None = None


def statistics(layer: Layer, wanted: Layer, seed: int = 0, *, halves: bool = False) -> Statistics:
    """The statistics of the inputs that ``layer`` gets, and of the outputs that ``wanted`` gives on the same samples."""
    generator = torch.Generator().manual_seed(seed)
    batches = len(layer.walk.waiting)
    parts = 2 if halves and batches > 1 else 1
    squares: list[Tensor] = [torch.zeros(())] * parts
    sums: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * parts
    mixed = answers = torch.zeros((), dtype=torch.float64)
    counts = [0] * parts
    for batch in range(batches):
        wanted_rows = max(ROWS_PER_UNKNOWN * math.prod(layer.walk.shape(layer.weight_node)[1:]), LEAST_ROWS) // batches + 1
        chosen = torch.randperm(layer.positions(batch), generator=generator)[:wanted_rows]
        x, y = layer.inputs(batch, chosen).contiguous(), wanted.outputs(batch, chosen)  # groups apart
        part, square = batch % parts, x.transpose(1, 2) @ x
        squares[part] = squares[part].add_(square) if counts[part] else square.double()
        sums[part] = sums[part] + x.sum(1).double()
        mixed, answers = mixed + (y.transpose(1, 2) @ x).double(), answers + y.sum(1).double()
        counts[part] += len(chosen)
    total, count = squares[0] + squares[1] if parts > 1 else squares[0], sum(counts)
    # Of few samples, or of inputs that hardly vary, nothing would be left but the rounding of the sums.
    floor = FLOOR * total.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) / count
    whole = sums[0] + sums[1] if parts > 1 else sums[0]
    mean, answer = whole / count, answers / count

    def around_mean(square: Tensor, own: Tensor, positions: int) -> Tensor:
        covariance = square.div_(positions).baddbmm_(own[:, :, None], own[:, None, :], alpha=-1 / positions**2)
        covariance.diagonal(dim1=1, dim2=2).add_(floor)
        return covariance

    return Statistics(
        around_mean(total, whole, count),
        mixed / count - answer[:, :, None] * mean[:, None, :],
        mean,
        answer,
        tuple(map(around_mean, squares, sums, counts)) if parts > 1 else None,
    )


def mean_error(layer: Layer, wanted: Layer, seed: int = 0) -> Tensor:
    """The shift of each output that brings what is read of it nearest to what is wanted: float64 [outputs].

    Without an activation that is the mean of what is lacking. Behind one, it is a Gauss-Newton step on the squared error of
    the activated values: the mean of what an activation cuts off says nothing, and matching that, too, would move what it lets
    through. The slope is taken over an interval of the typical error.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = len(layer.walk.waiting)
    missing = felt = torch.zeros((), dtype=torch.float64)
    activation = wanted.activation()
    for batch in range(batches):
        chosen = torch.randperm(layer.positions(batch), generator=generator)[: AVERAGED // batches + 1]
        expected, got = wanted.outputs(batch, chosen), layer.outputs(batch, chosen)
        gap, slope = expected - got, torch.ones_like(got)
        if activation is not None:
            step = gap.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3 * float(got.abs().mean()) + 1e-12)
            slope = (activation(got + step) - activation(got - step)) / (2 * step)
            gap = activation(expected) - activation(got)
        missing = missing + (gap * slope).double().sum(1).flatten()
        felt = felt + slope.square().double().sum(1).flatten()
    return missing / (felt + RARE)


def refitted(rows: Tensor, found: Statistics, ridge: float) -> Tensor:
    """The weights that come nearest to the wanted outputs on the inputs that really arrive.

    Where the layers before are rounded, these are not the weights that stand: they also make up for what those lost.

    Args:
        rows: The weights, [groups, outputs, inputs].
        found: The layer's statistics.
        ridge: Pull towards the weights that stand, relative to the mean of the diagonal.
    """
    standing = rows.double()
    h = found.covariance
    change = torch.linalg.solve(_raised(h.clone(), ridge), (found.common - standing @ h).transpose(1, 2)).transpose(1, 2)
    fitted = (standing + change).to(rows.dtype)
    return fitted if bool(torch.isfinite(fitted).all()) else rows


@dataclass(frozen=True)
class Lattice:
    """The values that each weight may take, ``level * scale``, elementwise.

    Args:
        scale: [groups, outputs, inputs].
        lowest: Smallest level.
        highest: Largest level.
        kept: False where a weight must be zero; None for none.
    """

    scale: Tensor
    lowest: int
    highest: int
    kept: Tensor | None = None

    def nearest(self, rows: Tensor, at: slice | int = slice(None)) -> Tensor:
        """The nearest value of each weight, of the inputs ``at``."""
        scale = self.scale[..., at]
        values = (rows / scale).round().clamp(self.lowest, self.highest) * scale
        return values if self.kept is None else values * self.kept[..., at]


def nearest(rows: Tensor, _h: Tensor, lattice: Lattice) -> Tensor:
    """Each weight by itself, whatever the data."""
    return lattice.nearest(rows)


def gptq(rows: Tensor, h: Tensor, lattice: Lattice, block: int = 128) -> Tensor:
    """Round one input after the other, and give its error on to those that are still free (Frantar et al., arXiv:2210.17323).

    Inputs with much energy come first. A last descent over single weights takes what the order left.
    """
    order = h.diagonal(dim1=1, dim2=2).argsort(1, descending=True)
    back = order.argsort(1)
    h = _raised(_ordered(h, order), DAMPING)
    lower = torch.linalg.cholesky(h)
    h = h.to(rows.dtype)  # of the exact ones, no more stand at a time than are needed
    inverse = torch.cholesky_inverse(lower)
    del lower
    upper = torch.linalg.cholesky(inverse, upper=True).to(rows.dtype)
    del inverse
    index = order[:, None, :].expand_as(rows)
    w = rows.gather(2, index).clone()
    kept = None if lattice.kept is None else lattice.kept.gather(2, index)
    turned = Lattice(lattice.scale.expand_as(rows).gather(2, index), lattice.lowest, lattice.highest, kept)
    values = torch.zeros_like(w)
    width = w.shape[2]
    for start in range(0, width, block):
        end = min(start + block, width)
        errors = torch.zeros_like(w[..., start:end])
        for i in range(start, end):
            values[..., i] = turned.nearest(w[..., i], i)
            error = (w[..., i] - values[..., i]) / upper[:, i, i, None]
            w[..., i:end] -= error[..., None] * upper[:, None, i, i:end]
            errors[..., i - start] = error
        w[..., end:] -= errors @ upper[:, start:end, end:]
    return descent(rows, _ordered(h, back), values.gather(2, back[:, None, :].expand_as(rows)), lattice)


def descent(rows: Tensor, h: Tensor, values: Tensor, lattice: Lattice, sweeps: int = 2, block: int = 128) -> Tensor:
    """Move single weights to the level that is best while all others stay (Behdin et al., arXiv:2309.01885); never worse.

    What a step does to the weights that come after its block is added once for the whole block.
    """
    values = values.clone()
    diagonal = h.diagonal(dim1=1, dim2=2).clamp(min=1e-20)
    width = rows.shape[2]
    for _ in range(sweeps):
        pull = (values - rows) @ h
        for start in range(0, width, block):
            end = min(start + block, width)
            steps = torch.zeros_like(values[..., start:end])
            for i in range(start, end):
                best = lattice.nearest(values[..., i] - pull[..., i] / diagonal[:, i, None], i)
                step = best - values[..., i]
                pull[..., i:end] += step[..., None] * h[:, None, i, i:end]
                values[..., i], steps[..., i - start] = best, step
            pull[..., end:] += steps @ h[:, start:end, end:]
    return values


def adaround(rows: Tensor, h: Tensor, lattice: Lattice, iterations: int = 1000) -> Tensor:
    """Learn for each weight whether it goes up or down (Nagel et al., arXiv:2004.10568).

    The choice is relaxed to ``clip(1.2 sigmoid(v) - 0.1, 0, 1)``, and a regulariser that sharpens drives it to 0 or 1.
    """
    h = _raised(h.clone(), DAMPING).to(rows.dtype)
    scale = lattice.scale.expand_as(rows)
    floor = (rows / scale).floor()
    rest = (rows / scale - floor).clamp(0.01, 0.99)
    v = torch.logit((rest + 0.1) / 1.2).requires_grad_()
    start = lattice.nearest(rows) - rows
    size = ((start @ h) * start).sum().clamp(min=1e-20) / rows.numel()
    optimizer = torch.optim.Adam([v], lr=0.03)

    def values(up: Tensor) -> Tensor:
        found = (floor + up).clamp(lattice.lowest, lattice.highest) * scale
        return found if lattice.kept is None else found * lattice.kept

    with torch.enable_grad():
        for number in range(iterations):
            up = (1.2 * torch.sigmoid(v) - 0.1).clamp(0, 1)
            gap = values(up) - rows
            loss = ((gap @ h) * gap).sum() / size
            progress = number / iterations
            if progress > 0.2:
                beta = 20 - 18 * (progress - 0.2) / 0.8
                loss = loss + 0.1 * (1 - (2 * up - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return values((v.detach() > 0).to(rows.dtype))


ROUNDINGS: dict[str, Callable[[Tensor, Tensor, Lattice], Tensor]] = {"nearest": nearest, "gptq": gptq, "adaround": adaround}
"""From weights, H and the values that they may take to rounded weights, all [groups, outputs, inputs]."""


def _raised(h: Tensor, share: float) -> Tensor:
    """H, changed in place: with so much added to its diagonal, relative to the diagonal's mean, it can be inverted.

    An input that is always the same counts as one of mean energy.
    """
    diagonal = h.diagonal(dim1=1, dim2=2)
    diagonal.add_(share * diagonal.mean(1, keepdim=True).clamp(min=1e-12))
    return h


def _ordered(h: Tensor, order: Tensor) -> Tensor:
    rows = h.gather(1, order[:, :, None].expand_as(h))
    return rows.gather(2, order[:, None, :].expand_as(h))
