"""RoundWeights: levels chosen by what they do to each layer's outputs, on unlabelled data, one layer at a time."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs, without_padding
from lissom.calibrate.layers import Layer, layer_of
from lissom.calibrate.second_order import ROUNDINGS, Lattice, mean_error, refitted, statistics
from lissom.calibrate.walk import Walk
from lissom.deploy.quantized_graph import float_twin, is_quantized_graph
from lissom.grids import Affine
from lissom.grids.cells import Cells, spread
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.quantize.biases import add_to_outputs
from lissom.quantize.channels import bits_of, output_axis

__all__ = ["BATCH", "RoundWeights"]

BATCH = 32
VALUES = 2**19
"""Numbers in a batch of inputs, about: what layers make of larger ones is so large that memory is mapped anew for each."""

FRACTIONS = 41


@step
class RoundWeights(Step):
    """Round weights so that each layer's outputs stay near the float network's, on the inputs that it really gets.

    Layers are met in order. Each gets the inputs that the layers before it, rounded already (and the activations, where they
    are quantized), really give; its wanted outputs are the float network's. So it makes up for what was lost before it.
    Biases take up what is left of the mean. Data needs no labels; memory is that of one layer.

    Args:
        bits: Bits of a level, 8 in the first and last layer of a graph whose activations are quantized.
        method: ``"gptq"``: one input after the other with error feedback (arXiv:2210.17323); ``"adaround"``: learned
            (arXiv:2004.10568); ``"nearest"``: each weight by itself.
        granularity: One scale for each output ``"channel"``, or for so many neighbours along a layer's inputs.
        ridge: How strongly weights are held to what they were before they are rounded, relative to the mean energy of the
            inputs; None does not move them.
        samples: How many calibration samples are used at most.
        include: Globs of tensor names; by default every weight that a layer multiplies by.
        exclude: Globs of what is left alone.

    Example:
        >>> RoundWeights(bits=4, granularity=32).to_dict()
        {'RoundWeights': {'granularity': 32}}
    """

    bits: Annotated[int, Ge(2), Le(8)] = 4
    method: Literal["gptq", "adaround", "nearest"] = "gptq"
    granularity: Literal["channel"] | Annotated[int, Ge(1)] = "channel"
    ridge: Annotated[float, Gt(0)] | None = 1.0
    samples: Annotated[int, Ge(1)] = 128
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def apply(self, network: Network, job: Job) -> Network:
        """The network with its layers' weights on grids."""
        rounded = edits.copy(network)
        names = set(edits.selected(rounded.module, self.include, self.exclude))
        standing = {name for name in names if (edit := edits.edit_of(rounded.module, name)) is not None and edit.grid is not None}
        twin = float_twin(network) if is_quantized_graph(network) else network
        each = sum(tensor[0].numel() for tensor in network.example_inputs)
        batch = max(1, min(BATCH, VALUES // max(each, 1)))
        batches = without_padding(twin, calibration_inputs(network, job, self.samples, batch))
        walk = Walk(rounded, batches)
        reference = (walk.again(batches) if twin is network else Walk(twin, batches)).layers()
        done: set[str] = set()
        with job.progress.task("rounding", len(names)) as task:
            for layer in walk.layers():
                wanted = layer_of(layer.name, reference)
                if layer.name in names - standing - done:
                    job.check_time()
                    self._round(rounded, layer, wanted)
                    done.add(layer.name)
                    task.advance()
        notes = [f"{name} is on a grid already: it is not rounded again" for name in sorted(standing)]
        left = sorted(names - standing - done) if not is_quantized_graph(network) else []
        notes += [f"{name} is the weight of no layer that is rounded by data: it is left alone" for name in left]
        return rounded.noting(*notes)

    def _round(self, network: Network, layer: Layer, wanted: Layer) -> None:
        module = network.module
        weight = edits.value(module, layer.name).float()
        found = statistics(layer, wanted)
        rows = layer.rows(weight)
        target = rows if self.ridge is None else refitted(rows, found, self.ridge)
        edit = edits.edit_of(module, layer.name)
        kept = None if edit is None or edit.mask is None else layer.rows(edit.mask)
        energy = found.covariance.diagonal(dim1=1, dim2=2)[:, None, :].expand_as(rows)
        bits = bits_of(network, layer.name, self.bits)
        grid = self._grid(layer.weight(target, weight), layer.weight(energy, weight), output_axis(module, layer.name), bits)
        lattice = Lattice(layer.rows(spread(grid.scale, weight).expand_as(weight)), grid.lowest, grid.highest, kept)
        values = layer.weight(ROUNDINGS[self.method](target, found.covariance, lattice), weight)
        edits.latent(module, layer.name).data = values  # not in the old memory, with which the float network is walked
        edits.attach(module, layer.name, grid=grid)
        edits.latent(module, layer.name).data = value = edits.value(module, layer.name)  # the same but for rounding: kept once
        layer.walk.replace(layer.name, value)
        add_to_outputs(module, layer, mean_error(layer, wanted))

    def _grid(self, weight: Tensor, energy: Tensor, axis: int, bits: int) -> Affine:
        """The grid whose scales give the least squared error, each weight's counted by the energy of its input."""
        group = self.granularity if isinstance(self.granularity, int) else None
        cells = Cells(axis, group)
        whole = Affine.fit(weight, bits=bits, channel_axis=axis, group=group)
        best = torch.ones_like(whole.scale)
        least = torch.full_like(whole.scale, torch.inf)
        for fraction in torch.linspace(1.0, 0.4, FRACTIONS).tolist():
            grid = Affine(whole.scale * fraction, whole.zero_point, whole.lowest, whole.highest)
            gap = (grid.values(grid.levels(weight)) - weight).square() * energy.clamp(min=1e-12)
            error = cells.fold(cells.rows(gap).sum(1), weight)
            best, least = torch.where(error < least, fraction, best), torch.minimum(error, least)
        return Affine(whole.scale * best, whole.zero_point, whole.lowest, whole.highest)
