"""Channel targets: how much of a network may stay, as a share of its indices, of its MACs, or of its latency."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lissom.deploy import deploy
from lissom.files import write_json
from lissom.graph.capture import Graph, capture
from lissom.graph.slicing import remove
from lissom.measure.latency import compare
from lissom.network import Network
from lissom.prune.channel_selection import Keep, Ladder, macs_left, removed, select

__all__ = ["Latency", "Macs", "Ratio", "Target"]

FINE = 6
"""Latencies are told apart in 2^FINE steps: each costs a file and some hundred calls of it."""

WITHIN = 1.05
"""Latencies that differ by less are the same: two measurements of one file differ by as much."""


class Target:
    """How much of a network may stay after each round of pruning."""

    @abstractmethod
    def select(self, graph: Graph, found: Sequence[Ladder], network: Network, *, scope: str, after: float) -> Keep:
        """What stays of every group when the share ``after`` of the way to the target is gone."""

    @abstractmethod
    def missed(self, network: Network) -> str:
        """In words, by how much ``network`` misses the target; empty where it does not."""


@dataclass(frozen=True)
class Ratio(Target):
    """The share of all indices that goes."""

    ratio: float
    rounds: int

    def select(self, graph: Graph, found: Sequence[Ladder], network: Network, *, scope: str, after: float) -> Keep:  # noqa: ARG002
        """Each round takes the same share of the indices that are there."""
        total = sum(group.size for ladder in found for group in ladder.groups)
        wanted = (1 - (1 - self.ratio) ** (1 / self.rounds)) * total - 1e-9
        return select(graph, found, scope=scope, by_macs=False, enough=lambda keep: removed(keep) >= wanted)

    def missed(self, network: Network) -> str:  # noqa: ARG002
        """A ratio is met as far as no group goes whole, which is noted where it happens."""
        return ""


@dataclass(frozen=True)
class Macs(Target):
    """The share of multiply-accumulates that may stay, of those that the network had before."""

    share: float
    before: int

    def select(self, graph: Graph, found: Sequence[Ladder], network: Network, *, scope: str, after: float) -> Keep:  # noqa: ARG002
        """Rungs go by what they matter for the multiply-accumulates that they save."""
        most = self.before * self.share**after
        return select(graph, found, scope=scope, by_macs=True, enough=lambda keep: macs_left(graph, keep) <= most)

    def missed(self, network: Network) -> str:
        """Where more than the share is left."""
        left = capture(network).macs / self.before
        return _cannot("the MACs", left, self.share) if left > self.share * 1.001 else ""


@dataclass(frozen=True)
class Latency(Target):
    """The share of the time of one call that may stay: float files in ONNX Runtime, one sample, one thread.

    Args:
        share: Of the original's time.
        original: The file that calls are compared with, as bytes.
        checkpoints: Folder that keeps what was decided by timing, so that a resumed run decides the same.
    """

    share: float
    original: bytes
    checkpoints: Path | None

    def select(self, graph: Graph, found: Sequence[Ladder], network: Network, *, scope: str, after: float) -> Keep:
        """The same order as for MACs; where to stop is measured on files of the sliced network."""
        known = None if self.checkpoints is None else self.checkpoints / f"latency-{after:.3f}.json"
        decided: dict[str, bool] = json.loads(known.read_text(encoding="utf-8")) if known is not None and known.exists() else {}

        def enough(keep: Keep) -> bool:
            name = str(removed(keep))
            if name not in decided:
                decided[name] = self._left(remove(network, graph, keep).network) <= self.share**after
                if known is not None:
                    known.parent.mkdir(parents=True, exist_ok=True)
                    write_json(known, decided)
            return decided[name]

        return select(graph, found, scope=scope, by_macs=True, enough=enough, trials=FINE)

    def missed(self, network: Network) -> str:
        """Where a call takes clearly more than the share."""
        left = self._left(network)
        return _cannot("the latency", left, self.share) if left > self.share * WITHIN else ""

    def _left(self, network: Network) -> float:
        inputs = [tensor[:1].cpu().numpy() for tensor in network.example_inputs]
        return 1 / compare(self.original, deploy(network).to_bytes(), inputs).ratio


def _cannot(what: str, left: float, share: float) -> str:
    return (
        f"pruning channels leaves {left:.0%} of {what}; {share:.0%} cannot be reached: one position of every group, or the "
        "least share that was asked for, is kept, and some axes cannot be pruned (lissom inspect says why)"
    )
