"""Calibration inputs: samples are as long as they are, where a mask tells that the rest is padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissom.calibrate.inputs import without_padding
from lissom.network import Network


class Pooled(nn.Module):
    """The mean of embedded tokens, of those that the mask shows or of all."""

    def __init__(self, *, masked: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.masked = nn.Embedding(20, 4), masked

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        seen = (mask if self.masked else torch.ones_like(mask))[:, :, None].float()
        return (self.table(ids) * seen).sum(1) / seen.sum(1)


def _batch() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([2, 5, 2, 3])
    mask = (torch.arange(6)[None] < lengths[:, None]).long()
    return torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0)) * mask, mask


def _network(*, masked: bool, free: bool = True) -> Network:
    axes = {"ids": {1: "length"}, "mask": {1: "length"}} if free else {}
    return Network(Pooled(masked=masked), _batch(), input_names=("ids", "mask"), dynamic_axes=axes)


def test_samples_of_one_length_make_up_a_batch_and_none_is_lost() -> None:
    ids, mask = _batch()
    cut = without_padding(_network(masked=True), [(ids, mask)])
    assert [tuple(part.shape) for _, part in cut] == [(2, 2), (1, 3), (1, 5)]
    assert all(bool(part.all()) for _, part in cut)
    assert torch.equal(cut[0][0], ids[[0, 2], :2])


def test_nothing_is_cut_where_answers_would_change_or_the_length_is_fixed() -> None:
    batch = _batch()
    for network in (_network(masked=False), _network(masked=True, free=False)):
        assert [tuple(part.shape) for _, part in without_padding(network, [batch])] == [(4, 6)]
