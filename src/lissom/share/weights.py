"""ShareWeights: each weight becomes one of a few shared values (Han et al., Deep Compression, arXiv:1510.00149)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import nn

from lissom import edits
from lissom.errors import UsageError
from lissom.grids import Codebook
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.share.kmeans import assign, kmeans

__all__ = ["ShareWeights"]


@step
class ShareWeights(Step):
    """Put each weight into a codebook found by k-means; a later ``Finetune`` trains the shared values.

    Zero stays exactly zero: weights that are masked or zero share an entry of their own, which does not train, and
    k-means sees the others only. A tensor that is on a grid already is left alone, and a note says so.

    Args:
        bits: Values per codebook as a power of two: ``2^bits``, zero among them where weights are zero.
        entries: The same as a number.
        start: Where k-means starts: ``"linear"`` over the range, ``"density"`` over the counts, ``"random"``; or ``"exact"``:
            the global optimum (for more than 65,536 distinct values, or 2^24 / entries, the optimum of as many
            groups of neighbours).
        scope: One codebook for each ``"layer"``, or one ``"global"`` codebook.
        block: So many adjacent weights (in memory, within one position of the first axis) share one value. With neither
            bits nor entries every block keeps its own mean, and neighbourhood is all that is shared.
        include: Globs of tensor names; by default every matrix and kernel.
        exclude: Globs of what is left alone.

    Raises:
        UsageError: bits and entries given both, or neither with ``block`` 1; more values than a codebook holds.

    Example:
        >>> ShareWeights(bits=4).to_dict()
        {'ShareWeights': {'bits': 4}}
    """

    bits: Annotated[int, Ge(1), Le(16)] | None = None
    entries: Annotated[int, Ge(2), Le(2**16)] | None = None
    start: Literal["linear", "density", "random", "exact"] = "linear"
    scope: Literal["layer", "global"] = "layer"
    block: Annotated[int, Ge(1)] = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits is not None and self.entries is not None:
            raise UsageError(f"ShareWeights: bits {self.bits} and entries {self.entries} given; give one of them")
        if self.bits is None and self.entries is None and self.block == 1:
            raise UsageError("ShareWeights: nothing to share by; give bits, entries, or a block above 1")

    def apply(self, network: Network, job: Job) -> Network:
        """The network with codebooks."""
        shared = edits.copy(network)
        names, notes = [], []
        for name in edits.selected(shared.module, self.include, self.exclude):
            edit = edits.edit_of(shared.module, name)
            if edit is not None and edit.grid is not None:
                notes.append(f"{name} is on a {type(edit.grid).__name__} grid already: its values are not shared again")
            elif not bool(edits.value(shared.module, name).any()):
                notes.append(f"{name} is zero throughout: there is nothing to share")
            else:
                names.append(name)
        for group in [names] if self.scope == "global" and names else [[name] for name in names]:
            self._share(shared.module, group, job.seed)
        return shared.noting(*notes)

    def _share(self, module: nn.Module, names: list[str], seed: int) -> None:
        """One codebook for all of ``names``."""
        values = [edits.value(module, name).float().cpu().numpy() for name in names]
        blocks = [_Blocks(value, self.block) for value in values]
        any_zero = any(bool((value == 0).any()) for value in values)
        means = np.concatenate([each.means[each.counts > 0] for each in blocks])
        counts = np.concatenate([each.counts[each.counts > 0] for each in blocks])
        centroids = kmeans(means, self._centroids(means, any_zero, names), start=self.start, counts=counts, seed=seed)
        centroids = np.unique(centroids.astype(np.float32)).astype(np.float64)
        # An entry for zero stands in its place among the others, so that levels are in the order of their values.
        zero = int(np.searchsorted(centroids, 0.0))
        entries = np.insert(centroids, zero, 0.0) if any_zero else centroids
        table = nn.Parameter(torch.from_numpy(entries.astype(np.float32)).to(edits.latent(module, names[0]).device))
        for name, value, each in zip(names, values, blocks, strict=True):
            index = each.spread(assign(each.means, centroids))
            if any_zero:
                index = np.where(value == 0, zero, index + (index >= zero)).astype(np.int32)
            kept = torch.from_numpy(value != 0)
            grid = Codebook(table, torch.from_numpy(index).to(table.device))
            edits.attach(module, name, grid=grid, mask=None if bool(kept.all()) else kept)

    def _centroids(self, means: npt.NDArray[Any], any_zero: bool, names: list[str]) -> int:
        entries = self.entries if self.bits is None else 2**self.bits
        if entries is not None:
            return entries - any_zero
        distinct = len(np.unique(means))
        if distinct + any_zero > 2**16:
            raise UsageError(
                f"ShareWeights: {distinct} blocks of {self.block} in {', '.join(names[:3])}; a codebook holds 65,536 values: "
                "give bits or entries, or a larger block"
            )
        return distinct


class _Blocks:
    """The weights of a tensor in blocks of neighbours: their means over what is not zero, and how many weights that is."""

    def __init__(self, value: npt.NDArray[np.float32], size: int) -> None:
        self.shape, self.size = value.shape, size
        rows = value.reshape(value.shape[0] if value.ndim else 1, -1).astype(np.float64)
        self.length = rows.shape[1]
        padded = np.pad(rows, ((0, 0), (0, -self.length % size))).reshape(len(rows), -1, size)
        self.counts = (padded != 0).sum(2).astype(np.float64)
        self.means = padded.sum(2) / np.maximum(self.counts, 1)

    def spread(self, per_block: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """What holds for each block, for each weight."""
        return np.repeat(per_block, self.size, axis=1)[:, : self.length].reshape(self.shape)
