"""Importances against hand-worked examples and against their definitions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.grids import Codebook
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.prune.importance import IMPORTANCES, entropy, gradients, importance_of
from lissom.train.losses import default_loss


def test_entropy_by_hand() -> None:
    """Two units. The first: magnitudes 0, 0, ln 2 give y = 1/4, 1/4, 1/2; the second: three equal ones give 1/3 each."""
    weight = torch.tensor([[0.0, 0.0, -math.log(2)], [0.4, -0.4, 0.4]])
    expected = [[math.log(4) / 4, math.log(4) / 4, math.log(2) / 2], [math.log(3) / 3] * 3]
    assert torch.allclose(entropy(weight), torch.tensor(expected))


def test_entropy_of_a_unit_is_the_sum_of_its_connections() -> None:
    weight = torch.randn(5, 3, 2, 2)
    y = torch.softmax(weight.abs().reshape(5, -1), 1)
    assert torch.allclose(entropy(weight).reshape(5, -1).sum(1), -(y * y.log()).sum(1))


def linear_job(labelled: bool = True) -> tuple[nn.Module, Job, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 4)).astype(np.float32), random.normal(size=(50, 2)).astype(np.float32)
    module = nn.Linear(4, 2)
    data = Data.of(Arrays((x,), y if labelled else None), seed=0)
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=Network(module, (torch.zeros(2, 4),)))
    return module, job, x, y


@pytest.mark.parametrize("how", ["gradient", "taylor", "fisher", "saliency"])
def test_gradients_are_those_of_the_loss(how: str) -> None:
    module, job, x, y = linear_job()
    numbers = job.data.calibration.numbers
    found = importance_of(module, ["weight"], how, job)["weight"].double()
    weight, bias = module.weight.detach().double().numpy(), module.bias.detach().double().numpy()
    size = IMPORTANCES[how].batch
    scores = []
    for start in range(0, len(numbers), size):
        part = numbers[start : start + size]
        error = x[part] @ weight.T + bias - y[part]
        gradient = 2 * error.T @ x[part] / error.size
        scores.append(IMPORTANCES[how].score(torch.from_numpy(weight), torch.from_numpy(gradient)).numpy())
    assert np.allclose(found.numpy(), np.mean(scores, 0), rtol=1e-4)


def test_scoring_leaves_no_trace() -> None:
    module, job, *_ = linear_job()
    module.bias.requires_grad_(False)
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    importance_of(module, ["weight"], "taylor", job)
    assert module.training
    assert not module.bias.requires_grad
    assert module.weight.grad is None
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_unlabelled_data_scores_by_the_information_in_the_answers() -> None:
    """The Fisher information of a linear classifier's weight is the mean of ``p (1 - p) x^2``, whatever the labels are."""
    torch.manual_seed(0)
    x, module = torch.randn(3000, 4) * torch.tensor([1.0, 2.0, 0.5, 1.0]), nn.Linear(4, 3)
    data = dataclasses.replace(Data.of(Arrays((x.numpy(),)), seed=0), task="classify")
    calibration = dataclasses.replace(data.calibration, numbers=np.arange(3000))
    data = dataclasses.replace(data, calibration=calibration)
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data))
    squares = [found["weight"].square() for found in gradients(module, ["weight"], job, 1, 3000)]
    p = module(x).softmax(1).detach()
    expected = torch.einsum("ni,nj->ij", p * (1 - p), x.square()) / 3000
    torch.testing.assert_close(torch.stack(squares).mean(0), expected, rtol=0.15, atol=0)


def test_weights_on_a_codebook_are_scored_by_their_values() -> None:
    module, job, *_ = linear_job()
    plain = importance_of(module, ["weight"], "taylor", job)["weight"]
    table, indices = module.weight.detach().unique(return_inverse=True)
    edits.attach(module, "weight", grid=Codebook(table, indices))
    with torch.no_grad():
        edits.latent(module, "weight").zero_()
    assert torch.allclose(importance_of(module, ["weight"], "taylor", job)["weight"], plain)


def test_a_tensor_that_the_output_does_not_need_is_worth_nothing() -> None:
    module, job, *_ = linear_job()
    module.register_parameter("unused", nn.Parameter(torch.ones(2, 2)))
    assert importance_of(module, ["unused"], "taylor", job)["unused"].tolist() == [[0, 0], [0, 0]]
