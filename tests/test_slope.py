"""One price of a bit: layers make up for what those before them lost, and what the data never met is paid by its chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lissom.codec import Quantized, encode
from lissom.codec.calibrated import important_levels
from lissom.data import Arrays, Data
from lissom.errors import ModelRefused
from lissom.network import Network
from lissom.slope import Priced, costs, importance_of, token_costs, within_drop


def image_network() -> tuple[Network, Data]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1, bias=False), nn.BatchNorm2d(40), nn.ReLU(),
        nn.Conv2d(40, 40, 3, padding=1, groups=40, bias=False), nn.BatchNorm2d(40), nn.ReLU(),
        nn.Conv2d(40, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    with torch.no_grad():
        module[4].weight[3] = 0.0  # a dead channel
        module[4].bias[3] = -1.0
    images = torch.randn(300, 3, 8, 8) @ torch.randn(8, 8)
    module.train()
    module(images)
    return Network(module.eval(), (images[:2],)), Data.of(Arrays((images.numpy(),)), seed=0)


def size(values) -> int:
    return len(encode({name: value for name, value in values.items() if isinstance(value, Quantized)}))


def test_layers_in_order_lose_less_at_fewer_bytes_than_each_tensor_on_its_own():
    network, data = image_network()
    priced = Priced(network, data)
    together = priced.at(1e-5)
    side = {name for name, value in together.items() if not isinstance(value, Quantized)}
    assert side == {name for name, value in network.module.state_dict().items() if value.ndim == 1}
    assert all(
        (together[name].view(np.uint32) & 0x7FFF == 0).all() for name in side if len(together[name]) >= 16
    )  # mantissas of eight bits
    assert all(np.isfinite(value.dense() if isinstance(value, Quantized) else value).all() for value in together.values())
    parameters = dict(network.module.named_parameters())
    alone = {
        name: important_levels(parameters[name].detach().numpy(), importance_of(priced.felt[name]), 1e-5) for name in priced.lossy
    }
    assert size(together) < 1.1 * size(alone)
    assert priced.drop(together) < 0.8 * priced.drop(alone)


def test_the_drop_is_within_the_limit_or_nothing_is_given():
    network, data = image_network()
    priced = Priced(network, data)
    told: list[str] = []
    found = within_drop(priced, 0.05, told.append)
    assert found
    assert priced.drop(found) <= 0.05
    assert len(told) == 9
    assert within_drop(priced, -1.0) == {}


def test_rows_never_met_share_what_rows_met_once_cost():
    fisher = torch.tensor([[8.0, 8.0], [2.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    assert token_costs(fisher, torch.tensor([5.0, 1.0, 0.0, 0.0])).tolist() == [4.0, 1.0, 0.5, 0.5]
    assert token_costs(fisher[:2], torch.tensor([5.0, 2.0])).tolist() == [4.0, 1.0]


def test_rows_never_met_share_with_their_neighbours():
    """Where frequent tokens come first, a row never met costs more among them than at the end."""
    random = np.random.default_rng(0)
    met = torch.from_numpy(random.poisson(200 / np.arange(1, 2001)).astype(np.float32))
    found = token_costs(met[:, None].expand(-1, 4), met)
    never = met == 0
    assert float(found[100:300][never[100:300]].mean()) > 3 * float(found[1500:][never[1500:]].mean())
    assert bool((found > 0).all())


def test_what_half_of_the_samples_says_alone_is_drawn_to_the_mean():
    random = np.random.default_rng(0)
    truth = torch.from_numpy(random.lognormal(0, 2, (1, 300, 1)))
    assert costs(truth, truth).flatten().tolist() == pytest.approx((truth / 2).flatten().tolist(), rel=0.2, abs=0.3)
    chance = torch.from_numpy(random.lognormal(0, 2, (2, 1, 300, 1)))  # halves that have nothing in common
    assert float(costs(chance.mean(0), chance[0]).std()) < 0.1 * float(chance.mean(0).std() / 2)
    assert costs(torch.tensor([[8.0], [0.0]])).tolist() == pytest.approx([4.0, 0.2])


def test_a_network_that_holds_nan_is_refused_by_the_name_of_its_weight():
    network, data = image_network()
    with torch.no_grad():
        network.module[6].weight[0, 0] = torch.nan
    with pytest.raises(ModelRefused, match=r"6\.weight holds NaN"):
        Priced(network, data)


def test_a_network_that_cannot_be_captured_takes_levels_tensor_by_tensor():
    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(20, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)

    torch.manual_seed(0)
    inputs = torch.randn(100, 20)
    priced = Priced(Network(Turning().eval(), (inputs[:2],)), Data.of(Arrays((inputs.numpy(),)), seed=0))
    assert priced.walk is None
    assert list(priced.at(1e-4)) == ["layer.weight", "layer.bias"]
