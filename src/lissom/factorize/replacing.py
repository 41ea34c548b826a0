"""Replacing: blocks in the places of a network's layers, each fitted to what the layer computed, each proved to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lissom import edits
from lissom.calibrate.batch_norm import shift_batch_norm
from lissom.calibrate.inputs import calibration_inputs
from lissom.calibrate.moments import collect, run_order, seen
from lissom.factorize.fit import Target, fit, target_of, weighted_rows
from lissom.factorize.ranks import parameters_of
from lissom.graph.blocks import replaceable
from lissom.graph.structure import apply_structure
from lissom.job import Job
from lissom.network import Network, Replace

__all__ = ["Blocks", "Places", "no_gain"]

Blocks = Callable[[str, nn.Module, Target], tuple[str, tuple[int, ...]]]
"""From a layer's path, the layer and what a block should compute, to the block's method and sizes; no sizes leave it whole."""


@dataclass(frozen=True)
class Places:
    """The layers of a network whose place a block can take.

    Args:
        network: Left as it was.
        paths: Of the layers, in the order in which they run.
        left: Of the other layers that were asked for, why each stays.
        inputs: Calibration samples in batches.
        aware: Whether blocks are fitted to activations, or to weights alone.
    """

    network: Network
    paths: tuple[str, ...]
    left: dict[str, str]
    inputs: list[tuple[Tensor, ...]]
    aware: bool

    @classmethod
    def of(
        cls, network: Network, job: Job, method: str, *, samples: int, include: Sequence[str] = (), exclude: Sequence[str] = ()
    ) -> Places:
        """The places that globs pick.

        Args:
            network: Where they are.
            job: Brings the calibration data.
            method: Which blocks: see :data:`lissom.graph.blocks.BLOCKS`.
            samples: Calibration samples; 0 fits the weights alone.
            include: Globs of layers or weights; by default every matrix and kernel.
            exclude: Globs of what is left alone.
        """
        inputs = calibration_inputs(network, job, samples or 1)
        paths, left = _replaceable_layers(network, inputs[0], method, include, exclude)
        return cls(network, tuple(paths), left, inputs, samples > 0)

    def layer(self, path: str) -> nn.Module:
        """The layer as it stands in the network."""
        return self.network.module.get_submodule(path)

    def arrived(self, path: str) -> Tensor:
        """What the layer is given, for some samples."""
        return seen(self.network.module, path, self.inputs[0])[0]

    def target(self, path: str, made: Network | None = None) -> Target:
        """What a block in the place of ``path`` should compute, on the inputs that it gets in ``made``."""
        layer = self.layer(path)
        if not self.aware:
            return target_of(layer)
        if isinstance(layer, nn.Embedding):
            read = [seen(self.network.module, path, batch)[0].flatten().cpu() for batch in self.inputs]
            return weighted_rows(layer, torch.bincount(torch.cat(read), minlength=layer.num_embeddings))
        moments = collect((made or self.network).module, self.network.module, path, self.inputs)
        return target_of(layer, moments)

    def replaced(self, blocks: Blocks, job: Job) -> Network:
        """The network with blocks in these places, one after the other, each fitted to what arrives there by then.

        A layer stays, and the notes say why, where its block would not be smaller, or the network would not run with it.
        """
        made, left, became, few = edits.copy(self.network), dict(self.left), [], []
        with job.progress.task("replacing layers", len(self.paths)) as task:
            for path in self.paths:
                job.check_time()
                layer, target = self.layer(path), self.target(path, made)
                method, sizes = blocks(path, layer, target)
                left[path] = no_gain(layer, method, sizes)
                if not left[path]:
                    fitted, missed = fit(layer, method, sizes, target)
                    made, left[path] = _put(made, Replace(path, method, sizes), fitted)
                if not left[path]:
                    became.append(_became(path, layer, method, fitted, missed))
                    if target.positions is not None and target.positions < max(sizes):
                        few.append(f"{path} has {max(sizes)} factors, fitted on {target.positions} positions: give more samples")
                task.advance(note=path)
        if self.aware:
            shift_batch_norm(made.module, self.network.module, self.inputs)
        return made.noting(*became, *(f"{path} was left alone: {why}" for path, why in left.items() if why), *few)

    def alone(self, path: str, method: str, fitted: nn.Sequential, sizes: tuple[int, ...]) -> tuple[Network, str]:
        """The network with this one fitted block in place; or the network as it is, and why it would not run so."""
        made, why = _put(edits.copy(self.network), Replace(path, method, sizes), fitted)
        if self.aware and not why:
            shift_batch_norm(made.module, self.network.module, self.inputs)
        return made, why


def no_gain(layer: nn.Module, method: str, sizes: tuple[int, ...]) -> str:
    """Why a block would gain nothing in the layer's place; empty where it would."""
    if not sizes:
        return "whole it costs least for what it gives"
    whole = sum(parameter.numel() for parameter in layer.parameters())
    smaller = parameters_of(layer, method, sizes)
    return "" if smaller < whole else f"{method} blocks of {sizes} have {smaller:,} parameters, and the layer has {whole:,}"


def _became(path: str, layer: nn.Module, method: str, made: nn.Sequential, missed: float) -> str:
    """What took the layer's place, in words."""
    before, after = (sum(each.numel() for each in part.parameters()) for part in (layer, made))
    shapes = ", ".join("x".join(map(str, part.weight.shape)) for part in list[Any](made))
    return f"{path} became {method} blocks ({shapes}): {before:,} to {after:,} parameters, {missed:.1%} of its output missed"


def _put(made: Network, edit: Replace, fitted: nn.Sequential) -> tuple[Network, str]:
    """The network, changed in place, with a fitted block in a layer's stead; if it does not run so, the layer stays.

    Returns:
        The network, and why the layer stays (empty where it does not).
    """
    layer = made.module.get_submodule(edit.module)
    apply_structure(made.module, [edit])
    made.module.get_submodule(edit.module).load_state_dict(fitted.state_dict())
    try:
        made.outputs(*made.example_inputs)
    except (AttributeError, RuntimeError, TypeError, IndexError) as error:
        around, _, name = edit.module.rpartition(".")
        setattr(made.module.get_submodule(around), name, layer)
        return made, f"the network reads more of it than its output: {str(error).splitlines()[0]}"
    return dataclasses.replace(made, slices=(*made.slices, edit)), ""


def _replaceable_layers(
    network: Network,
    inputs: tuple[Tensor, ...],
    method: str,
    include: Sequence[str],
    exclude: Sequence[str],
) -> tuple[list[str], dict[str, str]]:
    """Paths of the layers whose place a block can take, in the order in which they run; and of the others, why not."""
    module, tied = network.module, edits.aliases(network.module)
    ordered = run_order(network, inputs)
    found, left = [], {}
    for name in edits.selected(module, include, exclude):
        path, _, attribute = name.rpartition(".")
        layer = module.get_submodule(path)
        if attribute == "bias":
            continue
        why = replaceable(layer, method)
        if not path:
            why = "it is the whole network"
        elif len(tied[name]) > 1:
            why = f"it shares its weight with {', '.join(each for each in tied[name] if each != name)}"
        elif parametrize.is_parametrized(layer):
            why = "its weight is on a grid or masked, which factors would undo: factor first"
        elif not why and path not in ordered:
            why = "it does not run as a module"
        if why:
            left[path or name] = why
        else:
            found.append(path)
    return sorted(found, key=ordered.index), left
