"""Inputs: the calibration samples that a step looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lissom.job import Job
from lissom.network import Network

__all__ = ["calibration_inputs", "without_padding"]

BATCH = 128
"""Samples in a batch of calibration data: enough for steady variances, few enough for any memory."""


def calibration_inputs(network: Network, job: Job, samples: int, batch: int = BATCH) -> list[tuple[Tensor, ...]]:
    """Inputs of the first calibration samples in batches, on the network's device; fewer where there are not as many.

    Args:
        network: What will be run on them.
        job: Brings the calibration split.
        samples: How many samples, at most.
        batch: Samples in a batch, at most.
    """
    device = next((tensor.device for tensor in network.module.state_dict().values()), None)
    batches: list[tuple[Tensor, ...]] = []
    left = samples
    for inputs, _ in job.data.calibration.batches(batch):
        if left <= 0:
            break
        batches.append(tuple(tensor[:left].to(device) for tensor in inputs))
        left -= len(inputs[0])
    return batches


def without_padding(network: Network, batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """The same samples, each as long as it is: padded positions say nothing of what a layer really gets.

    A sum over positions would otherwise be one over padding, where sentences are short and the batch is as long as the longest.
    Of the inputs that share an axis of free length, one that holds only zeros and ones is the mask; samples are cut behind its
    last one, and those of equal length make up a batch. Where the network's answers would change, or nothing is a mask, the
    batches are as they were.

    Args:
        network: Its :attr:`~lissom.network.Network.dynamic_axes` tell which axes have a free length.
        batches: Inputs of calibration samples.
    """
    axes = {label for named in network.dynamic_axes.values() for axis, label in named.items() if int(axis) != 0}
    places = [network.dynamic_axes.get(name, {}) for name in network.input_names]
    cut: list[tuple[Tensor, ...]] = []
    for batch in batches:
        masks = [part for part, named in zip(batch, places, strict=True) if named and part.ndim == 2 and _is_mask(part)]
        if len(axes) != 1 or len(masks) != 1:
            return list(batches)
        lengths = masks[0].shape[1] - masks[0].flip(1).bool().int().argmax(1)
        for length in sorted(set(lengths.tolist())):
            rows = lengths == length
            cut.append(tuple(_shortened(part[rows], named, length) for part, named in zip(batch, places, strict=True)))
            whole = tuple(part[rows] for part in batch)
            pairs = zip(network.outputs(*whole), network.outputs(*cut[-1]), strict=True)
            if not all(
                a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max())) for a, b in pairs
            ):
                return list(batches)
    return cut


def _is_mask(part: Tensor) -> bool:
    return not part.is_floating_point() and bool(((part == 0) | (part == 1)).all()) and bool(part.bool().any(1).all())


def _shortened(part: Tensor, named: Mapping[int, str], length: int) -> Tensor:
    for axis in named:
        part = part.narrow(int(axis), 0, length) if int(axis) != 0 else part
    return part.contiguous()
