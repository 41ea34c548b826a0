"""QuantizeWeights: put weights on a grid of few values, which training, the archive and the exported file all hold."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor

from lissom import edits
from lissom.errors import UsageError
from lissom.grids import Affine, Grid
from lissom.grids.fitting import FITS, Wanted
from lissom.grids.rounding import stochastic
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.quantize.channels import bits_of, output_axis

__all__ = ["QuantizeWeights"]

DEFAULT_BITS = 8
ROUNDED = {"floor": ("affine", "linear"), "stochastic": ("affine",)}
"""The grids that know a rounding other than to nearest."""


@step
class QuantizeWeights(Step):
    """Round weights to a grid; a later ``Finetune`` trains through the rounding.

    Masked weights stay exactly zero. A tensor that is on a grid already is left alone, and a note says so.

    Args:
        bits: Bits of a level, 8 if none are given; grids of one size (binary, ternary, half precision) take none. The first
            and the last layer of a graph whose activations are quantized keep 8.
        grid: A key of :data:`lissom.grids.fitting.FITS`.
        symmetric: Zero in the middle of the levels; otherwise the range is covered with a zero point.
        granularity: One scale for a ``"tensor"``, for each output ``"channel"``, or for so many neighbours along the first
            axis of inputs.
        range: What is covered: ``"minmax"``, ``"std"``, ``"percentile"``, ``"mse"`` or ``"kl"``: see
            :data:`lissom.grids.ranges.RANGES`.
        rounding: ``"nearest"``; ``"floor"``; or ``"stochastic"``: each weight moves once, by the job's seed, to one of its
            two neighbours on the grid so that its expectation is what it was (equally spaced grids only).
        include: Globs of tensor names; by default every matrix and kernel.
        exclude: Globs of what is left alone.

    Raises:
        UsageError: one bit would collapse a weight; the message says how much of it would be left.

    Example:
        >>> QuantizeWeights(bits=4, granularity=32).to_dict()
        {'QuantizeWeights': {'bits': 4, 'granularity': 32}}
    """

    bits: Annotated[int, Ge(1), Le(16)] | None = None
    grid: str = "affine"
    symmetric: bool = True
    granularity: Literal["tensor", "channel"] | Annotated[int, Ge(1)] = "channel"
    range: Literal["minmax", "std", "percentile", "mse", "kl"] = "minmax"
    rounding: Literal["nearest", "floor", "stochastic"] = "nearest"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.grid not in FITS:
            raise UsageError(f"QuantizeWeights: grid is {self.grid!r}; there are {', '.join(FITS)}")
        if self.rounding != "nearest" and self.grid not in ROUNDED[self.rounding]:
            those = " and ".join(ROUNDED[self.rounding])
            raise UsageError(f"QuantizeWeights: rounding {self.rounding!r} is for {those}, not for {self.grid!r}")
        if self.grid == "affine" and self.bits == 1:
            raise UsageError("QuantizeWeights: bits is 1; an affine grid takes 2 to 16, and the grid 'binary' has 1")

    def apply(self, network: Network, job: Job) -> Network:
        """The network with its weights on grids."""
        quantized = edits.copy(network)
        generator = torch.Generator().manual_seed(job.seed)
        notes = []
        for name in edits.selected(quantized.module, self.include, self.exclude):
            edit = edits.edit_of(quantized.module, name)
            if edit is not None and edit.grid is not None:
                notes.append(f"{name} is on a {type(edit.grid).__name__} grid already: it is not quantized again")
            else:
                self._quantize(quantized, name, generator)
        return quantized.noting(*notes)

    def _quantize(self, network: Network, name: str, generator: torch.Generator) -> None:
        weight = edits.value(network.module, name)
        axis = None if self.granularity == "tensor" or weight.ndim < 2 else output_axis(network.module, name)
        wanted = Wanted(
            bits=bits_of(network, name, self.bits or DEFAULT_BITS),
            symmetric=self.symmetric,
            channel_axis=axis,
            group=self.granularity if isinstance(self.granularity, int) else None,
            range=self.range,
            rounding="nearest" if self.rounding == "stochastic" else self.rounding,
        )
        grid = FITS[self.grid](weight, wanted)
        if self.grid == "binary":
            _refuse_collapse(name, weight, grid)
        if self.rounding == "stochastic" and isinstance(grid, Affine):
            drawn = grid.values(grid.levels(weight, lambda scaled: stochastic(scaled.cpu(), generator).to(scaled.device)))
            latent = edits.latent(network.module, name)
            with torch.no_grad():
                latent.copy_(drawn)
        edits.attach(network.module, name, grid=grid)


LEAST_KEPT = 0.25
"""Share of a weight's energy that one bit must keep; for normal weights it keeps 2 / pi."""


def _refuse_collapse(name: str, weight: Tensor, grid: Grid) -> None:
    """Refuse one bit where it makes another layer of it: a few large weights among many small ones."""
    live = weight[weight != 0].double()
    if not live.numel():
        return
    with torch.no_grad():
        kept = 1 - float((grid(weight)[weight != 0].double() - live).square().sum() / live.square().sum())
    if kept < LEAST_KEPT:
        raise UsageError(
            f"{name} on a grid of one bit keeps {max(kept, 0):.0%} of its energy (at least {LEAST_KEPT:.0%} is needed): "
            "exclude it, or take the grid 'ternary' or more bits"
        )
