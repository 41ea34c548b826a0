"""Codebook: each weight is one of a few shared values, which training may move."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lissom.codec.tensors import Table
from lissom.errors import UsageError
from lissom.grids.base import Grid

__all__ = ["Codebook"]


class Codebook(Grid):
    """``value = table[level]``, with a fixed level for each weight (Deep Compression, arXiv:1510.00149).

    The table is a parameter: its gradient at an entry is the sum of the gradients of all weights that share it,
    so any training loop trains the centroids.

    Args:
        table: float32 [entries], at most 2^16. A parameter is kept as it is, so that several codebooks can share one.
        indices: int of the weight's shape: the entry of each weight.

    Example:
        >>> grid = Codebook(torch.tensor([0.0, 0.5]), torch.tensor([[0, 1], [1, 1]]))
        >>> grid(torch.zeros(2, 2)).sum().backward()
        >>> grid.table.grad.tolist()
        [1.0, 3.0]
    """

    follows: ClassVar = {"indices": "all", "table": ()}
    indices: Tensor

    def __init__(self, table: Tensor, indices: Tensor) -> None:
        super().__init__()
        if not 1 <= table.numel() <= 2**16:
            raise UsageError(f"a codebook of {table.numel()} entries; it must have 1 to 65,536")
        self.table = table if isinstance(table, nn.Parameter) else nn.Parameter(table.detach().to(torch.float32).clone())
        self.register_buffer("indices", indices.to(torch.int32))

    def levels(self, weight: Tensor) -> Tensor:  # noqa: ARG002 - the levels of a codebook are its state
        """The entry of each weight, int32."""
        return self.indices

    def values(self, levels: Tensor) -> Tensor:
        """``table[levels]``, detached."""
        return self.table.detach()[levels.long()]

    def forward(self, weight: Tensor) -> Tensor:  # noqa: ARG002 - the levels of a codebook are its state
        """The shared values; the gradient goes to the table."""
        return self.table[self.indices.long()]

    def decoding(self) -> Table:
        """The table as the archive and the exported file hold it."""
        return Table(self.table.detach().cpu().numpy().copy())
