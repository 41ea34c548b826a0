"""The ``.keras`` file of a network: written, loaded by Keras itself, and compared before anybody gets it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lissom.deploy.verify import Parity, compare
from lissom.errors import ParityFailed
from lissom.network import Network
from lissom.networks.keras.backend import import_keras
from lissom.networks.keras.save import keras_bytes

__all__ = ["deploy_keras", "verify_keras"]

Inputs = Iterable[Sequence[Tensor]]


def deploy_keras(network: Network, inputs: Inputs) -> tuple[bytes, Parity]:
    """The bytes of ``model.keras``, and how near Keras answers to the network when it has loaded them.

    Args:
        network: Came in by the Keras door; left as it is.
        inputs: Batches of real inputs, a tuple each.

    Raises:
        DeployFailed: Keras has no configuration for what became of the network.
        ParityFailed: Keras answers differently.
    """
    data = keras_bytes(network)
    return data, verify_keras(data, network, inputs)


def verify_keras(data: bytes, network: Network, inputs: Inputs) -> Parity:
    """Load a ``.keras`` file as plain Keras does, and compare its answers with the network's.

    Raises:
        ParityFailed: they differ by more than float rounding.
    """
    keras = import_keras()
    with tempfile.TemporaryDirectory(prefix="lissom-") as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(data)
        # Code in it, if any, is the user's, who allowed it when the network was opened.
        model = keras.saving.load_model(file, compile=False, safe_mode=False)
    got, expected = [], []
    for batch in inputs:
        arranged = _arranged(keras, model, batch)
        got.append(tuple(np.asarray(part.detach().cpu()) for part in keras.tree.flatten(model(arranged, training=False))))
        expected.append(tuple(output.cpu().numpy() for output in network.outputs(*batch)))
    parity = compare(got, expected, runtime="keras", kind="float")
    if not parity.holds:
        raise ParityFailed(
            f"model.keras, loaded by Keras, answers differently: max|a-b| / max|b| is {parity.max_relative:.2g} over {parity.n} "
            "samples"
        )
    return parity


def _arranged(keras: Any, model: Any, batch: Sequence[Tensor]) -> Any:
    structure = getattr(model, "input", None)
    if isinstance(structure, dict | list | tuple):
        return keras.tree.pack_sequence_as(structure, list(batch))
    return batch[0]
