"""Small networks, one for each thing that deploying must get right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lissom.network import Network


class Residual(nn.Module):
    """Convolutions with normalisation after them, padding, a sum, a global pool and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(16, 16, 2, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.last = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.last(self.depthwise(x))
        return self.head(x.mean((2, 3)))


class Transposed(nn.Module):
    """A grouped transposed convolution and a linear layer, each beside a normalisation; one before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 12, bias=False)
        self.flat = nn.BatchNorm1d(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.up(self.conv(self.before(x))))
        return self.flat(self.linear(x.relu().mean((2, 3))))


class Tied(nn.Module):
    """A language model in small: the output layer is the embedding; attention in between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)
        self.out = nn.Linear(16, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.out(x + self.attend(x, x, x, need_weights=False)[0])


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Twice(nn.Module):
    """One module called twice: its normalisation cannot be folded, and its weight is stored once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def _settle(module: nn.Module) -> nn.Module:
    """Give normalisations statistics and scales that are not the identity."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.3, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    return module.eval()


def _network(name: str) -> Network:
    torch.manual_seed(1)
    module, inputs, options = {
        "residual": (Residual, torch.randn(2, 3, 16, 16), {}),
        "transposed": (Transposed, torch.randn(2, 4, 6, 6), {}),
        "tied": (Tied, torch.randint(0, 50, (2, 6)), {"dynamic_axes": {"ids": {1: "length"}}}),
        "recurrent": (Recurrent, torch.randn(2, 4, 5), {}),
        "twice": (Twice, torch.randn(2, 4, 5, 5), {}),
    }[name]
    return Network(_settle(module()), (inputs,), **options)


def _batch(made: Network, count: int, seed: int = 0) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    example = made.example_inputs[0]
    shape = (count, *example.shape[1:])
    return (torch.randn(shape) if example.is_floating_point() else torch.randint(0, 50, shape),)


@pytest.fixture
def network() -> Callable[[str], Network]:
    """A network by name, with its example inputs."""
    return _network


@pytest.fixture
def batch() -> Callable[..., tuple[Tensor, ...]]:
    """Random inputs of a network's shapes: ``batch(network, count, seed)``."""
    return _batch


@pytest.fixture
def settle() -> Callable[[nn.Module], nn.Module]:
    """Gives normalisations statistics and scales that are not the identity."""
    return _settle
