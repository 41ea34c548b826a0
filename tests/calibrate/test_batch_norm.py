"""Batch-norm recalibration: the statistics of what an edited network computes, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from lissom.calibrate.batch_norm import recalibrate_batch_norm


def test_statistics_become_those_of_the_data_and_the_rest_stays():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    batches = [(torch.randn(50, 3) + 2,), (torch.randn(50, 3) + 2,)]
    assert recalibrate_batch_norm(module, batches) == 1
    hidden = [module[0](batch[0]) for batch in batches]
    assert torch.allclose(module[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0), atol=1e-5)
    assert torch.allclose(module[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0), atol=1e-5)
    assert module[1].momentum == 0.1
    assert not any(part.training for part in module.modules())
    for name, tensor in module.state_dict().items():
        assert "running" in name or "num_batches" in name or torch.equal(tensor, before[name])


def test_a_network_without_batch_norm_is_left_alone():
    assert recalibrate_batch_norm(nn.Linear(2, 2), [(torch.zeros(2, 2),)]) == 0
