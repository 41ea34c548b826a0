"""Mixed precision: bits where they matter, within the limit that was given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.errors import UsageError
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.quantize.mixed import MixedPrecision
from lissom.quantize.sensitivity import sensitivities
from lissom.train.losses import default_loss


@pytest.fixture(scope="module")
def made() -> tuple[Network, Job]:
    """The second layer hardly matters: its outputs are added a hundredth strong."""
    torch.manual_seed(0)

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.strong, self.weak = nn.Linear(16, 8), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.strong(x) + 0.01 * self.weak(x)

    network = Network(Sum(), (torch.zeros(2, 16),))
    data = Data.of(Arrays((torch.randn(200, 16).numpy(),)), seed=0)
    return network, Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network)


def _bits(network: Network) -> dict[str, int]:
    grids = {name: edit.grid for name, edit in edits.edited(network.module).items()}
    return {name: (2 * grid.highest + 1).bit_length() for name, grid in grids.items()}


def test_each_layers_error_alone_and_noise_fall_with_bits(made: tuple[Network, Job]) -> None:
    network, _ = made
    before = {name: value.clone() for name, value in edits.state_dict(network.module).items()}
    found = sensitivities(network, [(torch.randn(50, 16),)], bits=(2, 4, 8))
    assert all(torch.equal(before[name], value) for name, value in edits.state_dict(network.module).items())
    for name in ("strong.weight", "weak.weight"):
        of_layer = [entry for entry in found if entry.name == name]
        assert [entry.bits for entry in of_layer] == [2, 4, 8]
        assert of_layer[0].output_error > 5 * of_layer[1].output_error > 25 * of_layer[2].output_error
        assert of_layer[0].signal_to_noise + 8 < of_layer[1].signal_to_noise < of_layer[2].signal_to_noise - 15
        assert of_layer[0].bytes == 16 * 8 * 2 // 8 + 4 * 8
    assert found[0].output_error > 1000 * found[3].output_error


def test_bits_go_where_they_matter(made: tuple[Network, Job]) -> None:
    network, job = made
    rounded = MixedPrecision(max_size=16 * 8 * (2 + 8) // 8 + 64).apply(network, job)
    assert _bits(rounded) == {"strong.weight": 8, "weak.weight": 2}
    assert "strong.weight 8, weak.weight 2" in rounded.notes[-1]
    with pytest.raises(UsageError, match="with the fewest bits the weights take 128 bytes"):
        MixedPrecision(max_size=100).apply(network, job)


def test_a_drop_is_checked_by_running(made: tuple[Network, Job]) -> None:
    network, job = made
    rounded = MixedPrecision(max_drop=0.02).apply(network, job)
    assert 1 - job.metric.higher_is_better * _agreement(rounded, network, job) <= 0.02
    assert _bits(rounded)["weak.weight"] < 8


def _agreement(rounded: Network, network: Network, job: Job) -> float:
    from lissom.measure.metrics import measure

    return measure(rounded.outputs, job.data.validation, job.metric, original=network.outputs).value


def test_bits_by_a_layers_own_distribution(made: tuple[Network, Job]) -> None:
    network, job = made
    few = MixedPrecision(signal_to_noise=8).apply(network, job)
    many = MixedPrecision(signal_to_noise=35).apply(network, job)
    assert max(_bits(few).values()) < min(_bits(many).values())


def test_exactly_one_limit() -> None:
    with pytest.raises(UsageError, match="give one of"):
        MixedPrecision()
    with pytest.raises(UsageError, match="give one of"):
        MixedPrecision(max_size=10, max_drop=0.1)
