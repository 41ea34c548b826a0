"""The loop of the articles, quantize, prune, validate, optimise, in either order; and the recipes of the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.job import Job
from lissom.measure.metrics import default_metric, measure
from lissom.network import Network
from lissom.prune.weights import PruneWeights
from lissom.quantize.weights import QuantizeWeights
from lissom.recipe import Recipe
from lissom.train.finetune import Finetune
from lissom.train.losses import default_loss

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quantization.md"


def _made() -> tuple[Network, Job]:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 400)
    inputs = (random.normal(size=(3, 10))[labels] + 0.8 * random.normal(size=(400, 10))).astype(np.float32)
    data = Data.of(Arrays((inputs,), labels), seed=0)
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), seed=1)
    network = Network(nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3)), (torch.zeros(2, 10),))
    return Finetune(epochs=6, learning_rate=1e-2, batch_size=16).apply(network, job), job


@pytest.mark.parametrize("first", ["quantize", "prune"])
def test_the_loop_keeps_zeros_levels_and_accuracy(first: str) -> None:
    network, job = _made()
    quantize, prune = [QuantizeWeights(bits=4)], [PruneWeights(sparsity=0.3)]
    train = Finetune(epochs=2, learning_rate=3e-3, batch_size=16, patience=1)
    start = [*quantize, *prune] if first == "quantize" else [*prune, *quantize]
    small = Recipe((*start, train, PruneWeights(sparsity=0.5), train)).apply(network, job)
    for name in edits.selected(small.module):
        value, edit = edits.value(small.module, name), edits.edit_of(small.module, name)
        assert edit is not None
        assert edit.grid is not None
        assert float((value == 0).float().mean()) >= 0.45
        levels = edits.tensors(small.module)[name].levels
        assert np.abs(levels).max() <= 7
    before, after = (measure(made.outputs, job.data.test, job.metric).value for made in (network, small))
    assert after >= before - 0.1


def test_the_recipes_of_the_page_are_recipes() -> None:
    texts = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    recipes = [Recipe.from_yaml(text) for text in texts]
    assert [len(recipe.steps) for recipe in recipes] == [2, 5]
    network, job = _made()
    assert edits.edited(recipes[1].apply(network, job).module)
