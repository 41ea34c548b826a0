"""evaluate(): the metric of a network or of a file, on the split that chose nothing."""

from __future__ import annotations

from typing import Any

from lissom.data import load_data
from lissom.errors import DataRefused
from lissom.measure.metrics import Metric, default_metric, measure
from lissom.network import Network

__all__ = ["evaluate"]


def evaluate(
    network: Network,
    data: Any,
    *,
    original: Network | None = None,
    metric: Metric | None = None,
    task: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure ``network`` on the test split of ``data``.

    Args:
        network: The network; a file is run by its runtime (:func:`lissom.runtimes.file_network`).
        data: Anything that :func:`lissom.data.load_data` takes.
        original: What agreement is measured against, where there are no labels.
        metric: In place of what the labels imply.
        task: ``"classify"`` says that unlabelled outputs are classes.
        seed: Decides which samples are the test split, if the data does not say.

    Returns:
        ``metric``, ``unit``, ``value``, ``standard_error`` (of the mean), ``split`` and ``n``.

    Raises:
        DataRefused: there are no labels and no original.

    Example:
        >>> import numpy as np, torch
        >>> network = Network(torch.nn.Identity(), (torch.zeros(2, 3),))
        >>> scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
        >>> evaluate(network, {"x": scores, "y": np.array([0, 1, 2, 0, 1])})["value"]
        1.0
    """
    samples = load_data(data, network, seed=seed, task=task)
    chosen = metric or default_metric(samples)
    if chosen.against_original and original is None:
        raise DataRefused("the data has no labels: name the network to agree with, as  --original MODEL")
    measured = measure(network.outputs, samples.test, chosen, original=None if original is None else original.outputs)
    return {
        "metric": chosen.name,
        "unit": chosen.unit,
        "value": measured.value,
        "standard_error": measured.standard_error,
        "split": measured.split,
        "n": len(measured.samples),
    }
