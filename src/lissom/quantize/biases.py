"""CorrectBias: what rounded weights add to the mean of each layer's outputs is taken off again."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs, without_padding
from lissom.calibrate.layers import Layer, layer_of
from lissom.calibrate.second_order import mean_error
from lissom.calibrate.walk import Walk
from lissom.deploy.quantized_graph import float_twin, is_quantized_graph
from lissom.job import Job, Step, step
from lissom.network import Network

__all__ = ["CorrectBias", "add_to_outputs", "clipped_normal_mean"]

BATCH = 32


@step
class CorrectBias(Step):
    """Let the biases make up for the mean error of weights that are on grids, layer by layer in the order they run.

    ``"empirical"`` measures on data what each output lacks on average to the float network's, on the inputs that the layers
    before it, rounded and corrected already, really give; what an activation cuts off does not count.
    ``"analytic"`` takes no data: the rounding error of the weights times the mean of the inputs, which the normalisation and the
    activation before the layer tell: of outputs that are normal with mean beta and deviation gamma, clipped (Nagel et al.,
    arXiv:1906.04721). Only layers that read such an activation can be corrected so; a note names the others.

    A layer without a bias is corrected in the normalisation after it, whose mean moves. ``RoundWeights`` corrects biases
    itself.

    Args:
        method: Where the mean error is known from.
        samples: How many calibration samples the empirical method uses at most.

    Example:
        >>> CorrectBias(method="analytic").to_dict()
        {'CorrectBias': {'method': 'analytic'}}
    """

    method: Literal["empirical", "analytic"] = "empirical"
    samples: Annotated[int, Ge(1)] = 128

    def apply(self, network: Network, job: Job) -> Network:
        """The network with corrected biases."""
        corrected = edits.copy(network)
        rounded = {name for name, edit in edits.edited(corrected.module).items() if edit.grid is not None}
        before = _without_grids(network)
        twin = float_twin(before) if is_quantized_graph(network) else before
        batches = [network.example_inputs]
        if self.method == "empirical":
            batches = without_padding(twin, calibration_inputs(network, job, self.samples, BATCH))
        walk = Walk(corrected, batches)
        reference = Walk(twin, batches).layers()
        left = []
        for layer in walk.layers():
            wanted = layer_of(layer.name, reference)
            if layer.name not in rounded:
                continue
            shift = mean_error(layer, wanted) if self.method == "empirical" else _expected_error(layer, corrected, before)
            if shift is None or not add_to_outputs(corrected.module, layer, shift):
                left.append(layer.name)
        why = "their bias cannot be corrected" + (" without data" if self.method == "analytic" else "")
        return corrected.noting(f"{why}: {', '.join(left)}") if left else corrected


def add_to_outputs(module: nn.Module, layer: Layer, shift: Tensor) -> bool:
    """Add so much to each output of a layer, by its bias or by the mean that a normalisation after it takes off.

    Returns:
        False where neither is free.
    """
    if layer.bias is not None and edits.edit_of(module, layer.bias) is None:
        name, tensor, sign = layer.bias, edits.latent(module, layer.bias).detach(), 1
    elif layer.bias is None and layer.centre is not None:
        name, tensor, sign = layer.centre, module.get_buffer(layer.centre), -1
    else:
        return False
    # In place of the old memory, which another walk over the network as it was may compute with.
    changed = tensor + sign * shift.to(tensor)
    (edits.latent(module, name) if sign > 0 else module.get_buffer(name)).data = changed
    layer.move(name, changed, shift)
    return True


def clipped_normal_mean(mean: Tensor, deviation: Tensor, low: float, high: float) -> Tensor:
    """The expectation of a normal variable that is clipped to ``low … high``.

    >>> clipped_normal_mean(torch.zeros(1), torch.ones(1), 0.0, math.inf)
    tensor([0.3989])
    """
    deviation = deviation.abs().clamp(min=1e-12)
    a, b = (low - mean) / deviation, (high - mean) / deviation
    below: Tensor = torch.special.ndtr(a)
    above: Tensor = torch.special.ndtr(-b)
    inside: Tensor = mean * (1 - below - above) + deviation * (_density(a) - _density(b))
    return inside + (low * below if math.isfinite(low) else 0) + (high * above if math.isfinite(high) else 0)


def _density(x: Tensor) -> Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


def _expected_error(layer: Layer, rounded: Network, before: Network) -> Tensor | None:
    """What each output lacks on average, from the normalisation before the layer; None where nothing is known."""
    inputs = layer.normal_inputs()
    if inputs is None:
        return None
    gap = edits.value(before.module, layer.name).float() - edits.value(rounded.module, layer.name).float()
    rows = layer.rows(gap).double()  # [groups, outputs, inputs of a group times the kernel]
    expected = clipped_normal_mean(*inputs).double().reshape(layer.groups, -1)
    expected = expected.repeat_interleave(rows.shape[2] // expected.shape[1], 1)
    return (rows @ expected[:, :, None]).flatten()


def _without_grids(network: Network) -> Network:
    """The network as it was before its weights were rounded; masks stay."""
    before = edits.copy(network)
    for edit in edits.edited(before.module).values():
        edit.grid = None
    return before
