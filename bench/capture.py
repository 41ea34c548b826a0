"""Capture and groups of a network of 100 million parameters: seconds, and memory beside its weights.

    python bench/capture.py            # about ten seconds on a free core
    python bench/capture.py --quick    # two of the twelve layers

The network is a text encoder of the usual size (12 layers of width 768, a vocabulary of 30,522), built of torch's own layers
with random weights. Memory is the peak of the whole process above what it took before the network was built, so the weights
are counted once in it.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness import Bench, arguments
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.network import Network


class Encoder(nn.Module):
    """Words, positions, encoder layers, and one vector for each text."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30_522, 768), nn.Parameter(torch.randn(1, 64, 768))
        layer = nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, activation="gelu")
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(768, 384)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.words(tokens) + self.positions).mean(1))


def resident() -> int:
    """Bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make_row(layers: int) -> dict[str, Any]:
    """Build, capture and group."""
    torch.set_num_threads(1)
    capture(Network(nn.Linear(2, 2), (torch.zeros(2, 2),)))  # torch's tracing is loaded, which is not the network's cost
    before = resident()
    network = Network(Encoder(layers), (torch.randint(30_522, (2, 64)),))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in network.module.parameters())
    started, worked = time.monotonic(), time.process_time()
    graph = capture(network)
    found = groups(graph)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": weights // 4,
        "nodes": len(graph.nodes),
        "groups": len(found),
        "capture_seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(time.process_time() - worked, 2),
        "memory_over_weights": round((peak - before) / weights, 3),
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Those of the one network."""
    return {name: row[name] for row in rows for name in ("parameters", "capture_seconds", "cpu_seconds", "memory_over_weights")}


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    bench = Bench("capture", figures, quick=options.quick)
    layers = 2 if options.quick else 12
    bench.row({"layers": layers}, lambda: make_row(layers))
    print(bench.save())


if __name__ == "__main__":
    main()
