"""Inputs: the calibration samples that a step looks at."""

from __future__ import annotations

from torch import Tensor

from lissom.job import Job
from lissom.network import Network

__all__ = ["calibration_inputs"]

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
