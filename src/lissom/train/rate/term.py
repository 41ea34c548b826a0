"""RateTerm: one training's estimate of its archive, held to the bytes of the archive that is really written."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.codec import Quantized, encode
from lissom.grids import LearntStep
from lissom.train.rate.choice import Choice
from lissom.train.rate.prior import Prior
from lissom.train.rate.settings import Rate

__all__ = ["RateTerm"]

FIT_EVERY = 20
FINER = 4.0
"""Biases and normalisations start with so many times the resolution: they are few, and matter to whole channels."""

ARRIVAL = 0.75
"""The share of a run after which the archive should have the size that was asked for."""

STEER = 30.0
"""How fast the controller moves the logarithm of its weight: over a whole run, by so much for each e-fold of excess."""


class RateTerm:
    """What :class:`Rate` adds to the loss of one training.

    Args:
        rate: The settings.
        module: The module that trains; its floating parameters are put on learnt steps, in place.
        samples: Length of the training split.
    """

    def __init__(self, rate: Rate, module: nn.Module, samples: int) -> None:
        self.rate, self.module, self.samples = rate, module, samples
        self.weight, self.factor, self.count, self.steered = rate.weight, 1.0, 0, rate.warmup
        self.first = 0.0
        self.expected = self.written = 0
        self.priors: dict[str, Prior] = {}
        for name, parameter in edits.weights(module):
            edit = edits.edit_of(module, name)
            if (edit is None or edit.grid is None) and parameter.numel():
                finer = FINER if parameter.ndim < 2 else 1.0
                grid = LearntStep.fit(edits.value(module, name), resolution=rate.resolution * finer)
                edit = edits.attach(module, name, grid=grid.to(parameter.device))
            if edit is not None and isinstance(edit.grid, LearntStep):
                self.priors[name] = Prior(tuple(parameter.shape))
        self.multiples = {name: self._multiple(name) for name in self.priors}
        self.latents = {name: edits.latent(module, name) for name in self.priors}
        self.edits = {name: edit for name in self.priors if (edit := edits.edit_of(module, name)) is not None}
        self.units = {name: float(edit.grid.unit) for name, edit in self.edits.items() if isinstance(edit.grid, LearntStep)}
        self.overhead = 8 * len(encode({name: _silent(stored) for name, stored in edits.tensors(module).items()}, effort="best"))
        weights = {name: latent for name, latent in self.latents.items() if latent.ndim >= 2 and latent.requires_grad}
        self.choice, self.held = Choice(weights, self.units), False
        self._fit(rounds=8)

    def groups(self) -> list[dict[str, Any]]:
        """The module's parameters for an optimizer: steps learn at a pace of their own."""
        steps = [parameter for part in self.module.modules() if isinstance(part, LearntStep) for parameter in part.parameters()]
        fast = {id(parameter) for parameter in steps}
        others = [each for each in self.module.parameters() if each.requires_grad and id(each) not in fast]
        return [{"params": others, "pace": 1.0}, {"params": steps, "pace": self.rate.pace}]

    def loss(self, progress: float) -> Tensor:
        """What is added to the loss of a batch, at ``progress`` from 0 to 1."""
        self._step(progress)
        return self._weighted() * self._price(progress)

    @contextlib.contextmanager
    def under_any_loop(self, steps: int) -> Iterator[None]:
        """Inside, each weight's gradient gets that of its bits as soon as a loop that knows nothing of them has it.

        Args:
            steps: How many times the loop is expected to take gradients back: warm-up and steering go by that.
        """
        first = next(iter(self.latents), "")
        handles = [
            latent.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                functools.partial(self._pull, name, name == first, steps)
            )
            for name, latent in self.latents.items()
            if latent.requires_grad
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.hold_to_archive()

    def _pull(self, name: str, leads: bool, steps: int, latent: Tensor) -> None:
        progress = min(1.0, self.count / steps)
        if leads:
            self._step(progress)
        with torch.enable_grad():
            bits = self.multiples[name] * self.priors[name].bits(self._kept(name), self.units[name])
            (gradient,) = torch.autograd.grad(bits * self._price(progress), latent)
        assert latent.grad is not None
        latent.grad += gradient

    def _step(self, progress: float) -> None:
        self.count += 1
        if self.count % FIT_EVERY == 0:
            self._fit()
            if self.rate.max_size is not None and progress >= self.rate.warmup and not self.held:
                self._steer(progress)

    def _price(self, progress: float) -> float:
        """What a bit costs in the loss of a batch."""
        rise = min(1.0, progress / self.rate.warmup) if self.rate.warmup > 0 else 1.0
        return rise * self.weight / self.samples

    def _weighted(self) -> Tensor:
        """The bits that still move, each tensor's times its multiple."""
        moving = [name for name in self.priors if not (self.held and name in self.choice.latents)]
        bits = (self.multiples[name] * self.priors[name].bits(self._kept(name), self.units[name]) for name in moving)
        return sum(bits, torch.zeros(()))

    def watch(self, progress: float) -> None:
        """See the gradients of a step, from as long before the levels are held as they will be held."""
        if self.rate.hold > 0 and not self.held and progress >= 1 - 2 * self.rate.hold:
            self.choice.watch()

    def due(self, progress: float) -> bool:
        """Whether the time has come to choose the levels that stay."""
        return self.rate.hold > 0 and not self.held and progress >= 1 - self.rate.hold

    def choose(self, fisher: Mapping[int, Tensor], loss: Callable[[], float]) -> None:
        """Choose the levels of weights and hold them.

        Args:
            fisher: Of each weight's latent, by its ``id``.
            loss: Measures the mean loss on some samples of the training split.
        """
        known = {name: fisher[id(latent)] for name, latent in self.choice.latents.items()}
        self.choice.make(known, lambda: loss() + float(self._weighted()) * self.weight / self.samples)
        self._hold()

    def _hold(self) -> None:
        self.held = True
        for latent in self.choice.latents.values():
            latent.requires_grad_(False).grad = None

    def _steer(self, progress: float) -> None:
        """Hold the size to a course that falls from what it was after the warm-up to the limit, early enough to settle."""
        size, limit = self.bytes(), float(self.rate.max_size or 1)
        self.first = self.first or max(size, limit)
        left = max(0.0, 1 - (progress - self.rate.warmup) / (ARRIVAL - self.rate.warmup))
        excess = math.log(size / limit) - left * math.log(self.first / limit)
        self.weight *= math.exp(STEER * (progress - self.steered) * max(-1.0, min(1.0, excess)))
        self.steered = progress

    def bytes(self) -> float:
        """The estimate of the archive's bytes as the levels are now."""
        return (self.overhead + self.factor * self._bits()) / 8

    def hold_to_archive(self) -> int:
        """Write the archive, and correct the estimate by it; its bytes."""
        self.expected, written = round(self.bytes()), len(encode(edits.tensors(self.module), effort="best"))
        self.written = written
        self.factor = max(8 * written - self.overhead, 1.0) / max(self._bits(), 1.0)
        return written

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        priors = {name: [prior.coefficients.tolist(), prior.magnitude] for name, prior in self.priors.items()}
        held = ("weight", "factor", "count", "steered", "first", "overhead", "expected", "written", "held")
        return {**{name: getattr(self, name) for name in held}, "priors": priors, "choice": self.choice.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name, value in state.items():
            if name not in ("priors", "choice"):
                setattr(self, name, value)
        self.choice.load(state["choice"])
        if self.held:
            self._hold()
        for name, (coefficients, magnitude) in state["priors"].items():
            self.priors[name].coefficients, self.priors[name].magnitude = np.array(coefficients), magnitude

    def settle(self) -> str:
        """Put every latent on its level, so that nothing that reads weights sees a difference to the values.

        Returns:
            A note of how near the estimate came, by the factor of the epoch before.
        """
        for latent in self.choice.latents.values():
            latent.requires_grad_(True)
        with torch.no_grad():
            for name, latent in self.latents.items():
                edit = self.edits[name]
                assert isinstance(edit.grid, LearntStep)
                levels = edit.grid.levels(latent)
                latent.copy_(levels * edit.grid.unit if edit.mask is None else levels * edit.mask * edit.grid.unit)
        weight = f"at a weight of {self.weight:.3g}"
        return (
            f"trained against the archive {weight}: {self.expected:,} bytes expected at the end, {self.written:,} bytes written"
        )

    def _kept(self, name: str) -> Tensor:
        """The latents, zero where they are masked."""
        mask = self.edits[name].mask
        return self.latents[name] if mask is None else torch.where(mask, self.latents[name], 0.0)

    def _bits(self) -> float:
        with torch.no_grad():
            return float(sum(self.priors[name].bits(self._kept(name), self.units[name]) for name in self.priors))

    def _fit(self, rounds: int = 1) -> None:
        for name, prior in self.priors.items():
            latents = self._kept(name)
            for _ in range(rounds):
                prior.fit(latents, self.units[name])

    def _multiple(self, name: str) -> float:
        paths = [path for alias in edits.aliases(self.module)[name] for path in (alias, alias.rpartition(".")[0])]
        return math.prod(factor for glob, factor in self.rate.layers.items() if any(fnmatchcase(path, glob) for path in paths))


def _silent(stored: Any) -> Any:
    """The tensor with all its levels at zero: what is left is what an archive costs beside levels."""
    if not isinstance(stored, Quantized):
        return stored
    return Quantized(np.zeros_like(stored.levels), stored.decoding, stored.mask, stored.dtype)
