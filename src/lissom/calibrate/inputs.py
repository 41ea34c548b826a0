"""Inputs: the calibration samples that a step looks at."""

from __future__ import annotations

from torch import Tensor

from lissom.job import Job
from lissom.network import Network

__all__ = ["calibration_inputs"]

BATCH = 128
"""Samples in a batch of calibration data: enough for steady variances, few enough for any memory."""


def calibration_inputs(network: Network, job: Job, samples: int) -> list[tuple[Tensor, ...]]:
    """Inputs of the first calibration samples in batches, on the network's device; at least one batch where there is data."""
    device = next(network.module.parameters()).device
    batches: list[tuple[Tensor, ...]] = []
    count = 0
    for inputs, _ in job.data.calibration.batches(min(BATCH, samples)):
        batches.append(tuple(tensor.to(device) for tensor in inputs))
        count += len(inputs[0])
        if count >= samples:
            break
    return batches
