"""Biases and gains learn the original's answers, and only what holds on samples that did not teach stays."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from lissom.calibrate.matching import divergence, match_answers


def pair(samples: int) -> tuple[nn.Module, nn.Module, list[tuple[torch.Tensor]], list[torch.Tensor]]:
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 5)).eval()
    batches = [(batch,) for batch in torch.randn(samples, 8).split(32)]
    with torch.no_grad():
        answers = [original(*batch) for batch in batches]
    coarse = deepcopy(original)
    with torch.no_grad():
        for layer in (coarse[0], coarse[3]):
            layer.weight.copy_((layer.weight * 6).round() / 6)
    return original, coarse, batches, answers


def test_the_divergence_falls_on_new_samples_and_weights_stay():
    original, coarse, batches, answers = pair(320)
    weights = coarse[0].weight.detach().clone()
    inputs = torch.randn(500, 8)
    with torch.no_grad():
        before = divergence(coarse(inputs), original(inputs), classify=True)
    assert match_answers(coarse, batches, answers, classify=True, epochs=40) < 0.95
    with torch.no_grad():
        assert divergence(coarse(inputs), original(inputs), classify=True) < 0.95 * before
    assert torch.equal(coarse[0].weight, weights)
    assert all(value.requires_grad for value in coarse.parameters())


def test_what_does_not_hold_on_held_out_samples_is_not_kept():
    _, coarse, batches, answers = pair(64)
    state = {name: value.clone() for name, value in coarse.state_dict().items()}
    wrong = [-answers[0], answers[1]]  # what is taught contradicts what is held out
    assert match_answers(coarse, batches, wrong, classify=False) == 1.0
    assert all(torch.equal(value, state[name]) for name, value in coarse.state_dict().items())


def test_one_batch_alone_teaches_nothing():
    _, coarse, batches, answers = pair(32)
    assert match_answers(coarse, batches, answers, classify=True) == 1.0
