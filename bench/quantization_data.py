"""Networks and data of [quantization]: EfficientNet-lite0 on photos, MiniLM on sentences, and how far answers went."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness import ROOT, shared
from lissom.network import Network

Array = npt.NDArray[Any]
SPLITS = 5
SENTENCES = 600


def probe(name: str) -> Any:
    """A network's definition and data, from the shared folder."""
    folder = shared("networks")
    os.environ.setdefault("LAB", str(ROOT / "lab"))
    if not Path(os.environ["LAB"], "pkgs").exists():
        print(f"skipped: {os.environ['LAB']}/pkgs is missing; run  {folder}/{name}/get.sh {os.environ['LAB']}")
        sys.exit(0)
    sys.path.insert(0, str(folder))
    import probelib

    return probelib.load(folder / name)


@functools.cache
def lite0() -> tuple[Network, tuple[Array, ...]]:
    found = probe("efficientnet_lite0")
    pixels = found.data()[0]
    return Network(found.model(), (torch.from_numpy(pixels[:2]),)), (pixels,)


@functools.cache
def minilm() -> tuple[Network, tuple[Array, ...]]:
    """The network, and sentences of STS-B that are padded to one length."""
    found = probe("all_minilm_l6_v2")
    import text

    (ids, mask), _ = text.sts()[0]
    ids, mask = ids[:SENTENCES], mask[:SENTENCES]
    longest = int(mask.sum(1).max())
    ids, mask = ids[:, :longest], mask[:, :longest]
    network = Network(
        found.model(),
        tuple(torch.from_numpy(array[:2]) for array in (ids, mask)),
        input_names=("ids", "mask"),
        dynamic_axes={"ids": {1: "length"}, "mask": {1: "length"}},
    )
    return network, (ids, mask)


def divergences(expected: Array, got: Array) -> Array:
    """KL(expected || got) of the softmax of logits, in nats, for each sample."""
    p, q = (torch.from_numpy(logits.astype(np.float64)).log_softmax(1) for logits in (expected, got))
    return (p.exp() * (p - q)).sum(1).numpy()


def cosine_errors(expected: Array, got: Array) -> Array:
    """1 - cosine for each sample."""
    lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(got, axis=1)
    return 1 - (expected.astype(np.float64) * got).sum(1) / lengths


ERRORS: dict[str, Callable[[Array, Array], Array]] = {"lite0": divergences, "minilm": cosine_errors}
NETWORKS = {"lite0": lite0, "minilm": minilm}


def split_of(samples: tuple[Array, ...], number: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Calibration inputs and those that report."""
    places = np.arange(len(samples[0])) % SPLITS == number
    return tuple(part[places] for part in samples), tuple(part[~places] for part in samples)
