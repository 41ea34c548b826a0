"""QuantizeWeights: the grid asked for on the weights asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom import edits
from lissom.errors import UsageError
from lissom.grids import Affine, Half
from lissom.grids.fitting import FITS
from lissom.job import Job
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.prune.weights import PruneWeights
from lissom.quantize.channels import output_axis
from lissom.quantize.weights import QuantizeWeights
from lissom.train.finetune import Finetune


def scale_shape(network: Network, name: str) -> tuple[int, ...]:
    return tuple(edits.edit_of(network.module, name).grid.scale.shape)


def test_one_scale_per_output_whatever_the_layer(job: Job) -> None:
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.ConvTranspose2d(6, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 7 * 7, 3),
        nn.Unflatten(1, (1, 3)),
        nn.GRU(3, 5),
    )
    network = Network(module, (torch.zeros(2, 2, 8, 8),))
    quantized = QuantizeWeights(bits=8).apply(network, job)
    assert scale_shape(quantized, "0.weight") == (6, 1, 1, 1)
    assert scale_shape(quantized, "1.weight") == (1, 4, 1, 1)
    assert scale_shape(quantized, "3.weight") == (3, 1)
    assert scale_shape(quantized, "5.weight_ih_l0") == (15, 1)
    assert edits.edit_of(quantized.module, "0.bias") is None
    whole = QuantizeWeights(bits=8, granularity="tensor").apply(network, job)
    assert scale_shape(whole, "0.weight") == (1, 1, 1, 1)
    groups = QuantizeWeights(bits=4, granularity=32).apply(network, job)
    assert scale_shape(groups, "3.weight") == (3, 7)
    assert scale_shape(groups, "1.weight") == (1, 4, 1, 1)


def test_a_module_may_name_its_own_channel_axis() -> None:
    module = nn.Linear(3, 2)
    module.channel_axes = {"weight": 1}
    assert output_axis(module, "weight") == 1


def test_stochastic_rounding_takes_neighbours_on_the_grid_by_the_seed(classifier: Network, job: Job) -> None:
    drawn = QuantizeWeights(bits=4, rounding="stochastic").apply(classifier, job)
    nearest = QuantizeWeights(bits=4).apply(classifier, job)
    for name in edits.selected(classifier.module):
        weight, value = edits.value(classifier.module, name), edits.value(drawn.module, name)
        step = edits.edit_of(drawn.module, name).grid.scale
        assert bool(((value - weight).abs() < step * 1.0001).all())
        assert not torch.equal(value, edits.value(nearest.module, name))


def test_training_through_the_grid_recovers(classifier: Network, job: Job) -> None:
    coarse = QuantizeWeights(grid="ternary").apply(classifier, job)
    trained = Finetune(epochs=6, learning_rate=1e-2).apply(coarse, job)
    before, after = (measure(network.outputs, job.data.validation, job.metric).value for network in (coarse, trained))
    assert after >= before
    for name in edits.selected(trained.module):
        value = edits.value(trained.module, name)
        assert all(row.abs().unique().numel() <= 2 for row in value)


@pytest.mark.parametrize("grid", sorted(FITS))
def test_masked_weights_are_zero_on_every_grid(grid: str, classifier: Network, job: Job) -> None:
    pruned = PruneWeights(sparsity=0.5).apply(classifier, job)
    for network in (QuantizeWeights(grid=grid).apply(pruned, job),):
        for name in edits.selected(network.module):
            mask = edits.edit_of(pruned.module, name).mask
            assert bool((edits.value(network.module, name)[~mask] == 0).all())


def test_biases_when_asked_for(classifier: Network, job: Job) -> None:
    quantized = QuantizeWeights(bits=8, granularity="tensor", include=("*bias",)).apply(classifier, job)
    assert isinstance(edits.edit_of(quantized.module, "0.bias").grid, Affine)
    assert edits.edit_of(quantized.module, "0.weight") is None
    assert scale_shape(quantized, "0.bias") == (1,)


def test_what_is_on_a_grid_is_left_and_noted(classifier: Network, job: Job) -> None:
    once = QuantizeWeights(grid="bfloat16", include=("0.weight",)).apply(classifier, job)
    twice = QuantizeWeights(bits=4).apply(once, job)
    assert isinstance(edits.edit_of(twice.module, "0.weight").grid, Half)
    assert isinstance(edits.edit_of(twice.module, "2.weight").grid, Affine)
    assert twice.notes == ("0.weight is on a Half grid already: it is not quantized again",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 1}, "the grid 'binary' has 1"),
        ({"bits": 17}, "bits is 17"),
        ({"grid": "cubic"}, "there are affine, learned-affine, linear"),
        ({"grid": "binary", "rounding": "stochastic"}, "is for affine, not for 'binary'"),
        ({"grid": "min-max", "rounding": "floor"}, "is for affine and linear"),
        ({"granularity": 0}, "granularity is 0"),
        ({"granularity": "row"}, "granularity is 'row'"),
        ({"range": "all"}, "range is 'all'"),
    ],
)
def test_senseless_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        QuantizeWeights(**fields)
