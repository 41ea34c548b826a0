"""Networks trained against a rate: what the bench of the archive codes where rows and columns are dead."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from harness import shared


def rate_trained(kind: str, epochs: int = 4) -> dict[str, npt.NDArray[np.int32]]:
    """Levels of a network trained on MNIST against their rate under a spike and a Laplace for each row and column."""
    file = np.load(shared("data/mnist.npz"))
    images, labels = torch.from_numpy(file["x_train"][:30000] / np.float32(255)), torch.from_numpy(file["y_train"][:30000]).long()
    torch.manual_seed(0)
    network = RateTrained(kind)
    fast = [value for name, value in network.named_parameters() if "latent" not in name]
    slow = [value for name, value in network.named_parameters() if "latent" in name]
    optimizer = torch.optim.Adam([{"params": slow, "lr": 2e-2}, {"params": fast, "lr": 2e-2}])
    total = epochs * (len(images) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for number in range(total):
        chosen = torch.randint(len(images), (128,))
        loss = nn.functional.cross_entropy(network(images[chosen]), labels[chosen])
        weight = 0.15 * min(1.0, number / (0.15 * total)) / len(images)
        (loss + weight * network.bits()).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return {name: value.detach().round().numpy().astype(np.int32) for name, value in network.latents().items()}


SHAPES = {
    "lenet-300-100": ((300, 784), (100, 300), (10, 100)),
    "lenet-5": ((20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)),
}


class RateTrained(nn.Module):
    """Latents in units of a learnt step, rounded straight through, with a differentiable price in bits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        shapes = SHAPES[kind]
        self.latent = nn.ParameterList([nn.Parameter(torch.randn(s) * (2 / math.prod(s[1:])) ** 0.5 / 0.05) for s in shapes])
        self.step = nn.ParameterList([nn.Parameter(torch.tensor(math.log(0.05))) for _ in shapes])
        self.prior = nn.ParameterList([nn.Parameter(torch.tensor([0.0, 1.0, 0.0, 0.5])) for _ in shapes])
        self.bias = nn.ParameterList([nn.Parameter(torch.zeros(s[0])) for s in shapes])

    def latents(self) -> dict[str, torch.Tensor]:
        return {f"layer{number}": value for number, value in enumerate(self.latent)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None] if self.latent[0].ndim == 4 else x.flatten(1)
        for number, latent in enumerate(self.latent):
            weight = (latent + (latent.round() - latent).detach()) * self.step[number].exp()
            if weight.ndim == 4:
                x = nn.functional.max_pool2d(nn.functional.conv2d(x, weight, self.bias[number]).relu(), 2)
            else:
                x = nn.functional.linear(x.flatten(1), weight, self.bias[number])
                x = x.relu() if number + 1 < len(self.latent) else x
        return x

    def bits(self) -> torch.Tensor:
        """Of all latents: a spike at zero and a Laplace around it, both by how active the row and the column are."""
        total = torch.zeros(())
        for latent, prior in zip(self.latent, self.prior, strict=True):
            size = latent.abs().flatten(2).mean(2) if latent.ndim == 4 else latent.abs()
            active = (size.mean(1, keepdim=True) + 1e-3).log() + (size.mean(0, keepdim=True) + 1e-3).log()
            active = active[..., None, None] if latent.ndim == 4 else active
            zero = torch.sigmoid(-(prior[0] + prior[1].abs() * active))
            scale = (prior[2] + prior[3].abs() * active).clamp(-6, 6).exp() + 0.05
            inside = 1 - torch.exp(-0.5 / scale)
            magnitude = latent.abs()
            likely = torch.where(
                magnitude < 0.5, inside, 0.5 * (torch.exp(-(magnitude - 0.5) / scale) - torch.exp(-(magnitude + 0.5) / scale))
            )
            chance = torch.where(magnitude < 0.5, zero + (1 - zero) * likely, (1 - zero) * likely)
            total = total - chance.clamp(min=1e-9).log2().sum()
        return total
