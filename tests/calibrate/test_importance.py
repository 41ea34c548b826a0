"""Importance predicts what small errors in the weights cost in the answers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lissom.calibrate.importance import felt
from lissom.measure.metrics import divergence


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5))
    image = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(), nn.Linear(54, 5))
    words = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(24, 5))
    return {
        "dense": (dense, torch.randn(200, 6)),
        "image": (image, torch.randn(100, 2, 5, 5)),
        "words": (words, torch.randint(20, (200, 3))),
    }


@pytest.mark.parametrize("classify", [True, False])
@pytest.mark.parametrize("kind", ["dense", "image", "words"])
def test_half_the_fisher_information_is_the_divergence_of_small_errors(kind, classify):
    module, samples = networks()[kind]
    found = felt(module, [(sample[None],) for sample in samples], classify=classify)
    task = "classify" if classify else "imitate"
    for name, weight in found.items():
        real = predicted = 0.0
        for _ in range(20):
            broken = copy.deepcopy(module)
            error = 0.01 * torch.randn(weight.fisher.shape)
            with torch.no_grad():
                broken.get_parameter(name).add_(error)
                real += float(divergence((broken(samples),), (module(samples),), task).mean())
            predicted += float((weight.fisher * error**2).sum()) / 2
        assert 0.5 < predicted / real < 2, name
    assert all(value.requires_grad for value in module.parameters())


def test_inputs_of_layers_without_groups_are_summed():
    module, samples = networks()["image"]
    found = felt(module, [(sample[None],) for sample in samples[:4]], classify=True)
    assert [weight.moments is not None for weight in found.values()] == [True, False, True]
    assert found["0.weight"].moments.shape == (18, 18)
