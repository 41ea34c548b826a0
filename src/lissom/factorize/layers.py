"""The step Factorize: low-rank factors in the place of layers, at ranks that a share, an energy or a limit asks for."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from lissom.choice import Option, choose
from lissom.deploy import deploy
from lissom.errors import UsageError
from lissom.factorize.fit import Target, fit
from lissom.factorize.ranks import macs_of, sizes_by_energy, sizes_by_estimate, sizes_for
from lissom.factorize.replacing import Places
from lissom.files import write_json
from lissom.job import Job, Step, step
from lissom.measure.latency import compare
from lissom.network import Network

__all__ = ["Factorize", "Limit"]

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of a layer's parameters among which a limit on the whole network chooses."""

CALLS = 60
"""Timed calls of each block's file."""

Limit = Annotated[float, Gt(0), Lt(1)]


@step
class Factorize(Step):
    """Replace layers by chains of smaller ones, with weights that give the same outputs as nearly as their rank allows.

    The factors minimise the error of each layer's *output* on calibration inputs (Zhang et al., arXiv:1505.06798; for
    language models Wang et al., arXiv:2403.07378), taken from the network as it is by then, so each layer also mends
    what the ones before it lost. A layer is left alone, and named in the notes, where factors would not make it smaller.
    At most one of ``ratio``, ``energy``, ``macs``, ``parameters`` and ``latency`` is given; with none of them, the analytic
    Bayesian estimate (Nakajima et al., JMLR 14, 2013) finds the ranks.

    Args:
        method: ``"channel"``: the kernel into few channels and a pointwise layer; of a linear layer or an embedding this is
            its singular value decomposition. ``"spatial"``: k x 1, then 1 x k. ``"tucker"``: pointwise, kernel, pointwise
            (Tucker-2). ``"cp"``: pointwise, k x 1 and 1 x k depthwise, pointwise. All but the first are for convolutions.
        ratio: Share of each layer's parameters that stays.
        energy: Share of the squared singular values that is kept, in each layer.
        macs: Share of the chosen layers' multiply-accumulates that may stay, dealt out where it hurts least.
        parameters: The same, of their parameters.
        latency: The same, of their time, each timed as a file of its own in ONNX Runtime, one sample, one thread; where the
            whole network's file is then no faster, no layer is replaced.
        samples: Calibration samples; 0 looks at the weights alone.
        include: Globs of layers or weights; by default every matrix and kernel.
        exclude: Globs of what is left alone.

    Raises:
        UsageError: more than one of the five is given, or a glob picks nothing.

    Example:
        >>> Factorize(ratio=0.7).to_dict()
        {'Factorize': {'ratio': 0.7}}
    """

    method: Literal["channel", "spatial", "tucker", "cp"] = "channel"
    ratio: Limit | None = None
    energy: Limit | None = None
    macs: Limit | None = None
    parameters: Limit | None = None
    latency: Limit | None = None
    samples: Annotated[int, Ge(0)] = 256
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self._given) > 1:
            raise UsageError(f"Factorize: {' and '.join(self._given)} are given; give at most one of them")

    @property
    def _given(self) -> list[str]:
        return [name for name in ("ratio", "energy", "macs", "parameters", "latency") if getattr(self, name) is not None]

    def apply(self, network: Network, job: Job) -> Network:
        """The factored network, and in its notes what was left alone and why."""
        places = Places.of(network, job, self.method, samples=self.samples, include=self.include, exclude=self.exclude)
        chosen = self._chosen(places, job)
        if chosen is None:
            return places.replaced(self.block_for, job)
        sizes, missed = chosen
        made = places.replaced(lambda path, *_: (self.method, sizes[path]), job)
        if self.latency is not None and any(sizes.values()):
            made = _if_faster(made, network, places.inputs[0])
        return made.noting(missed) if missed else made

    def block_for(self, _: str, layer: nn.Module, target: Target) -> tuple[str, tuple[int, ...]]:
        """Method and sizes of the block for one layer, where no limit deals ranks out over all of them."""
        if self.ratio is not None:
            return self.method, sizes_for(layer, self.method, self.ratio)
        if self.energy is not None:
            return self.method, sizes_by_energy(layer, self.method, target, self.energy)
        return self.method, sizes_by_estimate(layer, self.method, target)

    def _chosen(self, places: Places, job: Job) -> tuple[dict[str, tuple[int, ...]], str] | None:
        """Under a limit on all layers together: sizes of each (empty: left whole), and in words by how much they miss the
        limit; None where there is no such limit.
        """
        limit = self.macs or self.parameters or self.latency
        if limit is None:
            return None
        plan: list[tuple[str, tuple[int, ...]]] = []
        options: list[Option] = []
        timed = _Times(places, job.checkpoints)
        with job.progress.task("weighing ranks", len(places.paths)) as task:
            for path in places.paths:
                job.check_time()
                layer, target = places.layer(path), places.target(path)
                made: dict[tuple[int, ...], tuple[nn.Sequential, float]] = {(): (nn.Sequential(layer), 0.0)}
                for share in SHARES if self.latency is None else SHARES[1::2]:
                    sizes = sizes_for(layer, self.method, share)
                    made.setdefault(sizes, fit(layer, self.method, sizes, target))
                plan += [(path, sizes) for sizes in made]
                for sizes, (each, error) in made.items():
                    options.append(Option((path,), self._cost(each, path, sizes, places, timed), error))
                task.advance(note=path)
        whole = sum(option.cost for option, (_, sizes) in zip(options, plan, strict=True) if not sizes)
        chosen = choose(options, limit * whole)
        left = sum(options[number].cost for number in chosen) / max(whole, 1e-30)
        missed = f"no ranks leave only {limit:.0%} of the chosen layers' {self._given[0]}: these are the closest, at {left:.0%}"
        return dict(plan[number] for number in chosen), missed if left > limit * 1.001 else ""

    def _cost(self, made: nn.Sequential, path: str, sizes: tuple[int, ...], places: Places, timed: _Times) -> float:
        if self.latency is not None:
            return timed.of(made, path, f"{path} {self.method} {sizes}")
        return macs_of(made, places.arrived(path)) if self.macs is not None else sum(each.numel() for each in made.parameters())


class _Times:
    """Seconds of a block's own file on what arrives at its layer; kept, so that a resumed run decides the same."""

    def __init__(self, places: Places, checkpoints: Path | None) -> None:
        self.places, self.file = places, None if checkpoints is None else checkpoints / "times.json"
        known = self.file is not None and self.file.exists()
        self.seconds: dict[str, float] = json.loads(self.file.read_text(encoding="utf-8")) if known and self.file else {}

    def of(self, made: nn.Sequential, path: str, name: str) -> float:
        """Seconds of the block; the layer's own time times the ratio of both, measured in turns."""
        if name not in self.seconds:
            arrived = self.places.arrived(path)[:2].cpu()
            whole = _file(nn.Sequential(self.places.layer(path)), arrived)
            timing = compare(whole, _file(made, arrived), [arrived[:1].numpy()], calls=CALLS)
            base = self.seconds.setdefault(f"{path} itself", timing.before.p10)
            self.seconds[name] = base / timing.ratio
            if self.file is not None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.file, self.seconds)
        return self.seconds[name]


def _file(part: nn.Sequential, arrived: Tensor) -> bytes:
    found: bytes = deploy(Network(copy.deepcopy(part).cpu(), (arrived,))).to_bytes()
    return found


def _if_faster(made: Network, network: Network, inputs: tuple[Tensor, ...]) -> Network:
    """The factored network where its file really takes less time; else the network as it was, and how long that took."""
    sample = [tensor[:1].cpu().numpy() for tensor in inputs]
    ratio = compare(deploy(network).to_bytes(), deploy(made).to_bytes(), sample).ratio
    if ratio > 1:
        return made
    return network.noting(f"no layer was factored: with factors the file takes {1 / ratio:.0%} of its time")
