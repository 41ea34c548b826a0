"""The two networks of every compression paper since 2016, for 28x28 grey images: LeNet-300-100 and LeNet-5 (Caffe's)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn

import lissom

__all__ = ["lenet5", "lenet_300_100"]

PIXELS = lissom.Preprocess(scale=1 / 255)


def lenet5() -> lissom.Network:
    """LeNet-5 as Caffe has it: 20 and 50 convolutions of 5x5, then 500 and 10 units; 431,080 parameters.

    Inputs are [N, 1, 28, 28] in [0, 1]; outputs are logits [N, 10]. Its weights are random until some are loaded.
    """
    return _network(
        conv1=lambda: nn.Conv2d(1, 20, 5),
        pool1=lambda: nn.MaxPool2d(2),
        conv2=lambda: nn.Conv2d(20, 50, 5),
        pool2=lambda: nn.MaxPool2d(2),
        flatten=nn.Flatten,
        fc1=lambda: nn.Linear(800, 500),
        relu=nn.ReLU,
        fc2=lambda: nn.Linear(500, 10),
    )


def lenet_300_100() -> lissom.Network:
    """LeNet-300-100: three linear layers, 784-300-100-10; 266,610 parameters.

    Inputs are [N, 1, 28, 28] in [0, 1]; outputs are logits [N, 10]. Its weights are random until some are loaded.
    """
    return _network(
        flatten=nn.Flatten,
        fc1=lambda: nn.Linear(784, 300),
        relu1=nn.ReLU,
        fc2=lambda: nn.Linear(300, 100),
        relu2=nn.ReLU,
        fc3=lambda: nn.Linear(100, 10),
    )


def _network(**layers: Callable[[], nn.Module]) -> lissom.Network:
    """The layers in order, built with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(OrderedDict((name, build()) for name, build in layers.items()))
    return lissom.Network(
        module, (torch.zeros(2, 1, 28, 28),), input_names=("image",), output_names=("logits",), preprocess=PIXELS
    )
