"""Small networks that are hard to edit, each with data that fits it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.data import Arrays, Data
from lissom.job import Job
from lissom.measure.metrics import default_metric
from lissom.network import Network
from lissom.train.losses import default_loss

SAMPLES = 40
CLASSES = 3


class LastOfLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TiedEmbedding(nn.Module):
    """The embedding is the output layer too, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embedding(tokens).mean(1))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        attended, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + attended).mean(1))


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES),
    )  # fmt: skip


def half() -> nn.Module:
    """A network in half precision keeps it."""
    return mlp().to(torch.bfloat16)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (6,)),
    "conv": (conv, (2, 8, 8)),
    "lstm": (LastOfLSTM, (4, 5)),
    "tied": (TiedEmbedding, (5,)),
    "attention": (Attention, (4, 8)),
    "twice": (Twice, (6,)),
}


def network_of(name: str) -> tuple[Network, Job]:
    """The network and a job with data for it, the same every time."""
    torch.manual_seed(3)
    build, shape = NETWORKS[name]
    random = np.random.default_rng(4)
    inputs = (
        random.integers(0, 7, (SAMPLES, *shape)) if name == "tied" else random.normal(size=(SAMPLES, *shape)).astype(np.float32)
    )
    labels = random.integers(0, CLASSES, SAMPLES)
    network = Network(build(), (torch.from_numpy(inputs[:2]),))
    data = Data.of(Arrays((inputs,), labels), seed=0)
    job = Job(data=data, loss=default_loss(data), metric=default_metric(data), teacher=network, seed=5)
    return network, job


def state(network: Network) -> dict[str, Tensor]:
    """A copy of all that the network holds."""
    return {name: tensor.clone() for name, tensor in edits.state_dict(network.module).items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states hold the same names and the same numbers."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
