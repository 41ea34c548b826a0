"""PruneLayers: remove whole blocks whose answer is nearly their input."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn

from lissom import edits
from lissom.calibrate.inputs import calibration_inputs
from lissom.graph.structure import apply_structure
from lissom.job import Job, Step, step
from lissom.measure.metrics import divergence
from lissom.network import Bypass, Network
from lissom.prune.channels import mend

__all__ = ["PruneLayers", "blocks"]

BATCH = 64


def blocks(network: Network) -> tuple[Bypass, ...]:
    """The modules that could be passed by: called once, with an answer of the shape and kind of their first argument.

    Modules without parameters are none of them, and of nested candidates all are given; the caller measures.
    """
    calls: dict[str, list[bool | None]] = {}

    def remember(path: str, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        calls.setdefault(path, []).append(_same_shape(arguments, named, output))

    hooks = [
        part.register_forward_hook(lambda _, given, named, out, path=path: remember(path, given, named, out), with_kwargs=True)
        for path, part in network.module.named_modules()
        if path and next(part.parameters(), None) is not None and next(part.children(), None) is not None
    ]
    try:
        network.outputs(*network.example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(Bypass(path, wrapped=seen[0]) for path, seen in calls.items() if len(seen) == 1 and seen[0] is not None)


def _same_shape(arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> bool | None:
    """None where the answer does not fit its input; else whether it comes in a tuple."""
    first = arguments[0] if arguments else next(iter(named.values()), None)
    wrapped = isinstance(output, (tuple, list))
    answer = output[0] if wrapped and len(output) == 1 else output
    fits = (
        isinstance(first, Tensor) and isinstance(answer, Tensor) and first.shape == answer.shape and first.dtype == answer.dtype
    )
    return wrapped if fits else None


@step
class PruneLayers(Step):
    """Remove whole blocks, one at a time the one whose absence moves the outputs least on calibration data.

    A block is a module with parts of its own whose answer has the shape of its input: a residual block, an encoder layer.
    It is replaced by passing its input on (ShortGPT, arXiv:2403.03853, finds such blocks by the same measure of agreement).

    Args:
        count: How many blocks go.
        samples: Calibration samples that the outputs are compared on.
        reconstruct: Refit the layers that are left to what the network computed before, by least squares on those samples,
            and recalibrate batch-norm statistics. Neither needs labels.

    Example:
        >>> PruneLayers(count=2).to_dict()
        {'PruneLayers': {'count': 2}}
    """

    count: Annotated[int, Gt(0)] = 1
    samples: Annotated[int, Gt(0)] = 256
    reconstruct: bool = True

    def apply(self, network: Network, job: Job) -> Network:
        """The shallower network; its notes say which blocks went, and whether there were fewer than asked for."""
        original = network
        for number in range(self.count):
            best = self._least_missed(network, original, job)
            if best is None:
                network = network.noting(
                    f"only {number} of {self.count} blocks could be removed: no other answers in its input's shape"
                )
                break
            removed = edits.copy(network, slices=(*network.slices, best))
            apply_structure(removed.module, [best])
            network = removed.noting(f"{best.module} was removed: of all blocks, the outputs miss it least")
        if self.reconstruct and network.slices != original.slices:
            mend(network, original, job, self.samples)
        return network

    def _least_missed(self, network: Network, original: Network, job: Job) -> Bypass | None:
        candidates = blocks(network)
        inputs = calibration_inputs(original, job, self.samples, BATCH)
        reference = [original.outputs(*batch) for batch in inputs]
        best, least = None, float("inf")
        with job.progress.task("trying to do without each block", len(candidates)) as task:
            for candidate in candidates:
                job.check_time()
                moved = _moved(network, candidate, inputs, reference, job)
                if moved < least:
                    best, least = candidate, moved
                task.advance(note=f"{candidate.module} moves the outputs by {moved:.3g}")
        return best


def _moved(
    network: Network, candidate: Bypass, inputs: list[tuple[Tensor, ...]], reference: list[tuple[Tensor, ...]], job: Job
) -> float:
    """Mean divergence of the outputs when the block answers with its input; infinite where the network then fails."""

    def pass_by(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:  # noqa: ARG001
        first = arguments[0] if arguments else next(iter(named.values()))
        return (first,) if candidate.wrapped else first

    hook = network.module.get_submodule(candidate.module).register_forward_hook(pass_by, with_kwargs=True)
    try:
        found = [
            divergence(network.outputs(*batch), wanted, job.data.task).mean()
            for batch, wanted in zip(inputs, reference, strict=True)
        ]
        return float(torch.stack(found).mean())
    except (RuntimeError, ValueError, TypeError, IndexError):
        return float("inf")
    finally:
        hook.remove()
