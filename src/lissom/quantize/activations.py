"""QuantizeActivations: the deployed integer graph as the network, so that what follows corrects and trains that very graph."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from annotated_types import Ge, Gt

from lissom.deploy.pipeline import plain
from lissom.deploy.quantized_graph import is_quantized_graph, quantize_graph
from lissom.deploy.settings import Deploy, Ranges, Types
from lissom.job import Job, Step, step
from lissom.network import Network

__all__ = ["QuantizeActivations"]

BATCH = 32


@step
class QuantizeActivations(Step):
    """Turn the network into its integer graph: normalisations folded, a QuantizeLinear pair at every activation.

    The result is that graph, read back: weights are float still, under the graph's names, and ``QuantizeWeights``,
    ``RoundWeights`` and ``Finetune`` work on it as on any network. Deployed, it is written as it stands, with integer weights.
    A step that changes the network's shape must come before.

    Args:
        types: Integer types of activations and weights: see :class:`lissom.deploy.Deploy`.
        ranges: How activation ranges are taken: see there.
        target: For which target: see there.
        spread: Of ``"percentile"`` and ``"std"``.
        smooth: Whether differences between channels move into the weights of matrix products: see there.
        samples: How many calibration samples are used at most.
        keep_float: Globs of what stays in float.

    Example:
        >>> QuantizeActivations(types="U4S4").to_dict()
        {'QuantizeActivations': {'types': 'U4S4'}}
    """

    types: Types = "auto"
    ranges: Ranges = "auto"
    target: str = "this-machine"
    spread: Annotated[float, Gt(0)] | None = None
    smooth: bool | None = None
    samples: Annotated[int, Ge(1)] = 128
    keep_float: tuple[str, ...] = ()

    def apply(self, network: Network, job: Job) -> Network:
        """The quantized graph."""
        if is_quantized_graph(network):
            return network.noting("the activations are quantized already: they are not quantized again")
        settings = Deploy(precision="int8", **dataclasses.asdict(self))
        calibration = [inputs for inputs, _ in job.data.calibration.batches(BATCH)]
        return quantize_graph(plain(network, settings), settings, calibration)
