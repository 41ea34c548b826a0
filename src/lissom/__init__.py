"""lissom makes trained neural networks small and fast, with the evidence measured on the file you get.

    result = lissom.compress(network, data, max_drop=0.01)
    result.save("small/")

The names below are loaded on first use (PEP 562), so that importing lissom is instant.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_ROOMS = {
    "CorrectBias": "quantize.biases",
    "Data": "data",
    "Deploy": "deploy",
    "Distill": "train.distill",
    "Factorize": "factorize",
    "EqualizeLayers": "quantize.equalize",
    "Finetune": "train.finetune",
    "Job": "job",
    "Lighten": "lighten",
    "LissomError": "errors",
    "MixedPrecision": "quantize.mixed",
    "Metric": "measure.metrics",
    "Network": "network",
    "Optimizer": "train.finetune",
    "PolynomialDecay": "prune.schedule",
    "Preprocess": "network",
    "PruneChannels": "prune.channels",
    "PruneHeads": "prune.heads",
    "PruneLayers": "prune.layers",
    "PruneWeights": "prune.weights",
    "QuantizeActivations": "quantize.activations",
    "QuantizeWeights": "quantize.weights",
    "QuantizeWithin": "quantize.within",
    "Rate": "train.rate",
    "Recipe": "recipe",
    "Result": "result",
    "RoundWeights": "quantize.rounding",
    "ShareWeights": "share",
    "Step": "job",
    "Substitute": "substitute",
    "compress": "compress",
    "evaluate": "evaluate",
    "inspect": "inspection",
    "load": "loading",
    "load_data": "data",
    "open": "pack",
    "open_network": "networks",
    "pack": "pack",
    "step": "job",
    "unpack": "pack",
}

__all__ = sorted(_ROOMS)  # noqa: PLE0605 - the table above is the one list of public names


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"lissom has no {name!r}; it has {', '.join(__all__)}")
    found = getattr(importlib.import_module(f"lissom.{_ROOMS[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


class _Public(ModuleType):
    """Importing the room ``lissom.compress`` would put that module in the place of the function ``lissom.compress``."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _ROOMS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Public
