"""L1Regularise: pull weights towards zero while the network trains, and remove those that arrive there."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import nn

from lissom import edits
from lissom.job import Job, Step, step
from lissom.network import Network

__all__ = ["L1Regularise"]


@step
class L1Regularise(Step):
    """Train with an L1 term, then remove what fell to zero: ``Finetune(epochs=5, during=L1Regularise(strength=0.3))``.

    The term ``strength * sum |w|`` is taken by its proximal step after each step of the optimizer,
    ``w = sign(w) * max(|w| - learning_rate * strength, 0)``, which reaches zero exactly where the gradient
    of ``|w|`` would only circle about it (iterative soft thresholding, Daubechies et al., 2004).
    At the end of the training the zeros are masked. Applied on its own, the step masks what is zero already.

    Args:
        strength: What the loss may rise for one unit of weight.
        threshold: Weights of at most this magnitude count as zero at the end.
        include: Globs of tensor names; by default every matrix and kernel.
        exclude: Globs of what is left alone.

    Example:
        >>> network = Network(nn.Linear(2, 1), (torch.zeros(2, 2),))
        >>> network.module.weight.data = torch.tensor([[0.5, 0.001]])
        >>> pruned = L1Regularise(strength=0.1, threshold=0.01).apply(network, job=None)
        >>> edits.value(pruned.module, "weight").tolist()
        [[0.5, 0.0]]
    """

    strength: Annotated[float, Gt(0)]
    threshold: Annotated[float, Ge(0)] = 0.0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def apply(self, network: Network, job: Job) -> Network:  # noqa: ARG002 - it looks at nothing but the weights
        """The network with a mask over what is zero."""
        pruned = edits.copy(network)
        self._remove(pruned.module)
        return pruned

    def begin(self, module: nn.Module, job: Job) -> None:  # noqa: ARG002 - the protocol's arguments
        """Attach masks that keep everything, so that checkpoints have a place for them from the start."""
        for name in edits.selected(module, self.include, self.exclude):
            edits.attach(module, name, mask=torch.ones_like(edits.latent(module, name), dtype=torch.bool))

    def update(self, module: nn.Module, job: Job, progress: float, *, learning_rate: float) -> None:  # noqa: ARG002
        """The proximal step; at the end of the training, the masks."""
        with torch.no_grad():
            for name in edits.selected(module, self.include, self.exclude):
                weight = edits.latent(module, name)
                weight.copy_(torch.nn.functional.softshrink(weight, learning_rate * self.strength))
        if progress >= 1:
            self._remove(module)

    def _remove(self, module: nn.Module) -> None:
        for name in edits.selected(module, self.include, self.exclude):
            edits.attach(module, name, mask=edits.value(module, name).abs() > self.threshold)
