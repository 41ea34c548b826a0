"""Batch-norm recalibration: the statistics of what an edited network computes, and nothing else."""

from __future__ import annotations

import torch
from torch import nn

from lissom.calibrate.batch_norm import recalibrate_batch_norm, shift_batch_norm


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


def test_shifted_statistics_move_with_the_edits_alone_however_often():
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    original[1].running_mean.copy_(torch.randn(4))
    original[1].running_var.copy_(torch.rand(4) + 0.5)
    batches = [(torch.randn(50, 3) + 2,)]  # unlike what the statistics were taken on
    same = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    same.load_state_dict(original.state_dict())
    shift_batch_norm(same, original, batches)
    assert torch.allclose(same[1].running_mean, original[1].running_mean, atol=1e-6)
    assert torch.allclose(same[1].running_var, original[1].running_var, rtol=1e-6)

    kept = [0, 2]
    edited = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    edited[0].weight.data.copy_(2 * original[0].weight[kept])
    edited[0].bias.data.copy_(2 * original[0].bias[kept] + 1)
    for _ in range(2):  # a second time changes nothing: where it starts from is the original, not the edited network
        shift_batch_norm(edited, original, batches, {"1.running_mean": kept, "1.running_var": kept})
        hidden = original[0](batches[0][0])[:, kept]
        moved = (2 * hidden + 1).mean(0) - hidden.mean(0)
        assert torch.allclose(edited[1].running_mean, original[1].running_mean[kept] + moved, atol=1e-5)
        assert torch.allclose(edited[1].running_var, 4 * original[1].running_var[kept], rtol=1e-4)
