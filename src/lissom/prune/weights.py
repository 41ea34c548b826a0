"""PruneWeights: set single weights to zero for good, the least important first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from lissom import edits
from lissom.errors import UsageError
from lissom.job import Job, Step, step
from lissom.network import Network
from lissom.prune.allocation import ALLOCATIONS, RANKINGS, Setting, lowest
from lissom.prune.importance import importance_of
from lissom.prune.schedule import PolynomialDecay

__all__ = ["PruneWeights"]

Sparsity = Annotated[float, Ge(0), Lt(1)]


@step
class PruneWeights(Step):
    """Mask the least important weights; what is zero stays zero in every later step.

    One-shot: ``PruneWeights(sparsity=0.9)``. Iterative: pairs of ``PruneWeights`` and ``Finetune`` of rising sparsity.
    Gradual: ``Finetune(during=PruneWeights(schedule=PolynomialDecay(final=0.9)))``. Exactly one of ``sparsity``,
    ``threshold`` and ``schedule`` is given.

    Args:
        sparsity: Share of the weights that is zero afterwards, those masked before among them: one number for all, or
            one for each glob of tensor names (``{"conv*": 0.5, "fc1": 0.95}``; the first that matches counts, other
            tensors are left alone).
        threshold: Remove the weights whose importance is at most this; with ``allocation="scaled"`` in units of the
            layer's root-mean-square importance.
        importance: ``"magnitude"``, ``"gradient"``, ``"taylor"``, ``"fisher"``, ``"saliency"`` or ``"entropy"``: see
            :data:`lissom.prune.importance.IMPORTANCES`.
        allocation: How layers share the zeros. ``"uniform"``: each the same share. ``"global"``: all weights ranked
            together. ``"scaled"``: the same after dividing by the layer's root mean square. ``"lamp"``: the same with
            layer-adaptive scores (arXiv:2010.07611). ``"own"``: more from layers whose mass sits in few weights
            (Hoyer's sparsity). ``"sensitivity"``: the split of least divergence, measured with one layer pruned
            at a time.
        include: Globs of tensor names; by default every matrix and kernel (biases and normalisations are left alone).
        exclude: Globs of what is left alone.
        schedule: Raise the sparsity little by little while ``Finetune`` trains.
        samples: Calibration samples that importances by gradient run.

    Raises:
        UsageError: none or several of sparsity, threshold and schedule; a glob that matches nothing.

    Example:
        >>> PruneWeights(sparsity=0.9, allocation="lamp").to_dict()
        {'PruneWeights': {'sparsity': 0.9, 'allocation': 'lamp'}}
    """

    sparsity: Sparsity | dict[str, Sparsity] | None = None
    threshold: Annotated[float, Ge(0)] | None = None
    importance: Literal["magnitude", "gradient", "taylor", "fisher", "saliency", "entropy"] = "magnitude"
    allocation: Literal["uniform", "global", "scaled", "lamp", "own", "sensitivity"] = "uniform"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    schedule: PolynomialDecay | None = None
    samples: Annotated[int, Gt(0)] = 512

    def __post_init__(self) -> None:
        given = [name for name in ("sparsity", "threshold", "schedule") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise UsageError(f"PruneWeights: {said} given; give exactly one of sparsity, threshold and schedule")
        if isinstance(self.sparsity, dict) and self.allocation != "uniform":
            raise UsageError(f"PruneWeights: a sparsity for each glob leaves nothing to allocate by {self.allocation!r}")
        if self.threshold is not None and self.allocation not in ("uniform", "global", "scaled"):
            raise UsageError(
                f"PruneWeights: allocation is {self.allocation!r} with a threshold, which takes 'uniform' or 'scaled'"
            )
        if self.schedule is not None and self.allocation == "sensitivity":
            raise UsageError("PruneWeights: sensitivity is measured once; with a schedule take 'global', 'scaled' or 'lamp'")

    def apply(self, network: Network, job: Job) -> Network:
        """The network with the masks."""
        if self.schedule is not None:
            raise UsageError("PruneWeights: a schedule acts during training: Finetune(during=PruneWeights(schedule=…))")
        pruned = edits.copy(network)
        self._prune(pruned.module, job, self.sparsity)
        dead = [name for name in self._names(pruned.module) if not bool(edits.value(pruned.module, name).any())]
        return pruned.noting(*(f"{name} has no weight left: lower the sparsity, or exclude it" for name in dead))

    def begin(self, module: nn.Module, job: Job) -> None:  # noqa: ARG002 - the protocol's arguments
        """Attach masks that keep everything, so that checkpoints have a place for them from the start."""
        for name in self._names(module):
            edits.attach(module, name, mask=torch.ones_like(edits.latent(module, name), dtype=torch.bool))

    def update(self, module: nn.Module, job: Job, progress: float, *, learning_rate: float) -> None:  # noqa: ARG002
        """Raise the sparsity to where the schedule has it; do nothing where it is there already."""
        if self.schedule is None:
            if progress >= 1:
                self._prune(module, job, self.sparsity)
            return
        sparsity = self.schedule.sparsity(progress)
        names = self._names(module)
        total = sum(edits.latent(module, name).numel() for name in names)
        missing = sparsity * total - sum(_masked(module, name) for name in names)
        if missing >= len(names) or progress >= 1:  # rounding down leaves less than one weight in each
            self._prune(module, job, sparsity)

    def _names(self, module: nn.Module) -> list[str]:
        if isinstance(self.sparsity, Mapping):
            return edits.selected(module, tuple(self.sparsity), self.exclude)
        return edits.selected(module, self.include, self.exclude)

    def _prune(self, module: nn.Module, job: Job, sparsity: float | Mapping[str, float] | None) -> None:
        names = self._names(module)
        scores = importance_of(module, names, self.importance, job, samples=self.samples)
        if sparsity is None:
            ranking = RANKINGS.get(self.allocation, RANKINGS["global"])
            removed = {name: ranking(score) <= (self.threshold or 0.0) for name, score in scores.items()}
        else:
            scores = {name: _below_zero_where_masked(module, name, score) for name, score in scores.items()}
            values = {name: edits.value(module, name) for name in names}
            counts = self._counts(module, scores, values, sparsity, job)
            removed = {name: lowest(scores[name], counts[name]) for name in names}
        for name, gone in removed.items():
            edits.attach(module, name, mask=~gone)

    def _counts(
        self,
        module: nn.Module,
        scores: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        sparsity: float | Mapping[str, float],
        job: Job,
    ) -> dict[str, int]:
        if not isinstance(sparsity, Mapping):
            return ALLOCATIONS[self.allocation](Setting(scores, values, sparsity, module, job))
        counts: dict[str, int] = {}
        for pattern, share in sparsity.items():
            for name in edits.selected(module, (pattern,), self.exclude):
                if name not in counts:
                    setting = Setting({name: scores[name]}, {name: values[name]}, share, module, job)
                    counts |= ALLOCATIONS["uniform"](setting)
        return counts


def _masked(module: nn.Module, name: str) -> int:
    edit = edits.edit_of(module, name)
    return 0 if edit is None or edit.mask is None else int((~edit.mask).sum())


def _below_zero_where_masked(module: nn.Module, name: str, score: Tensor) -> Tensor:
    edit = edits.edit_of(module, name)
    return score if edit is None or edit.mask is None else torch.where(edit.mask, score, -1.0)
