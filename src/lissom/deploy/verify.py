"""Verify: the file is run, and its answers compared with the network's, before anybody gets it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lissom.deploy.departure import first_departure
from lissom.deploy.deployed import Deployed
from lissom.errors import DataRefused, ParityFailed
from lissom.network import Network
from lissom.runtimes import open_file

__all__ = ["Parity", "agreement", "compare", "verify"]

Array = npt.NDArray[Any]
MAX_RELATIVE = 1e-4
MIN_COSINE = 0.999
MIN_AGREEMENT = 0.99
REFERENCE = "onnxruntime"
"""Runs an integer file operator by operator, as written: what the target's own kernels are held to."""


@dataclass(frozen=True)
class Parity:
    """How near two ways of running a network are.

    Args:
        runtime: Where the file ran.
        kind: ``"float"``: against the network; ``"integer"``: the runtime against ONNX Runtime without optimisations.
        max_relative: The largest ``max|a - b| / max|b|`` over the outputs.
        cosine: The smallest mean cosine over samples, over the outputs.
        agreement: The smallest share of samples that agree, over the outputs: the largest entry is the same, or, where
            entries are no classes, the cosine of the sample is at least what the mean must be.
        n: How many samples.
    """

    runtime: str
    kind: Literal["float", "integer"]
    max_relative: float
    cosine: float
    agreement: float
    n: int

    @property
    def holds(self) -> bool:
        """Whether this is parity."""
        if self.kind == "float":
            return self.max_relative <= MAX_RELATIVE
        # Among fewer than a hundred samples, one near tie that rounding turns is no sign of a wrong kernel.
        differing = round((1 - self.agreement) * self.n)
        return self.cosine >= MIN_COSINE and differing <= max(1, (1 - MIN_AGREEMENT) * self.n)


def verify(
    deployed: Deployed,
    network: Network,
    inputs: Iterable[Sequence[Tensor | np.ndarray[Any, Any]]],
    *,
    runtime: str = "onnxruntime",
    threads: int = 1,
    classes: bool = True,
) -> Parity:
    """Run the file and compare; return how near it is, or refuse to hand it over.

    A float file must answer as the network does. An integer file differs from the network by its rounding, which the
    metric judges; what must hold is that the runtime's integer kernels compute what the file says, so it is compared
    with ONNX Runtime running the file's operators one by one.

    Args:
        deployed: The file.
        network: The network that it was made from.
        inputs: Batches of real inputs, at least 32 samples together.
        runtime: Where the file runs.
        threads: How many threads.
        classes: Whether the largest entry of an output is its answer; False of embeddings and other numbers.

    Raises:
        ParityFailed: the answers differ; names the first node whose output departs.
        DataRefused: there are no inputs.
    """
    batches = [tuple(_array(part) for part in batch) for batch in inputs]
    if not batches:
        raise DataRefused("verifying a file takes real inputs, and there are none: give at least 32 samples")
    data = deployed.to_bytes()
    session = open_file(data, runtime, threads=threads)
    got = [session(*batch) for batch in batches]
    kind: Literal["float", "integer"] = "float" if deployed.precision == "float32" else "integer"
    if kind == "float":
        expected = [_torch_outputs(network, batch) for batch in batches]
    else:
        reference = open_file(data, REFERENCE, threads=threads, optimize=False)
        expected = [reference(*batch) for batch in batches]
    parity = compare(got, expected, runtime=runtime, kind=kind, classes=classes)
    if not parity.holds:
        raise ParityFailed(_message(deployed, network, batches[0], parity))
    return parity


def compare(
    got: Sequence[Sequence[Array]],
    expected: Sequence[Sequence[Array]],
    *,
    runtime: str,
    kind: Literal["float", "integer"],
    classes: bool = True,
) -> Parity:
    """How near the outputs of batches are to those expected; ``classes`` as in :func:`verify`.

    >>> outputs = [(np.eye(4, dtype=np.float32),)]
    >>> compare(outputs, outputs, runtime="torch", kind="float").holds
    True
    """
    if any(
        len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)) for a, b in zip(got, expected, strict=True)
    ):
        return Parity(runtime, kind, float("inf"), -1.0, 0.0, 0)
    columns = [
        (_flat([batch[index] for batch in got]), _flat([batch[index] for batch in expected])) for index in range(len(got[0]))
    ]
    return Parity(
        runtime,
        kind,
        max_relative=max(_max_relative(a, b) for a, b in columns),
        cosine=min(float(_cosines(a, b).mean()) for a, b in columns),
        agreement=min(agreement(a, b) if classes else float((_cosines(a, b) >= MIN_COSINE).mean()) for a, b in columns),
        n=len(columns[0][0]),
    )


def agreement(got: Array, expected: Array) -> float:
    """The share of rows whose largest entry is at the same place; rows of one entry always agree.

    >>> agreement(np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[0.0, 5.0], [0.0, 5.0]]))
    0.5
    """
    return float((got.argmax(1) == expected.argmax(1)).mean()) if got.size else 1.0


def _flat(parts: list[Array]) -> Array:
    """All samples as rows of float64; a sample without axes is a row of one."""
    return np.concatenate([part.reshape(len(part), -1).astype(np.float64) for part in parts])


def _max_relative(got: Array, expected: Array) -> float:
    if not got.size:
        return 0.0
    difference = float(np.abs(got - expected).max())
    largest = float(np.abs(expected).max())
    if not np.isfinite(difference):
        return float("inf")
    return difference if largest == 0 else difference / largest


def _cosines(got: Array, expected: Array) -> Array:
    """Of each sample; two rows of zeros are alike."""
    if not got.size:
        return np.ones(1)
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    both_zero = (np.linalg.norm(got, axis=1) == 0) & (np.linalg.norm(expected, axis=1) == 0)
    products = (got * expected).sum(1)
    return np.where(both_zero, 1.0, np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))


def _torch_outputs(network: Network, batch: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(output.cpu().numpy() for output in network.outputs(*(torch.from_numpy(array) for array in batch)))


def _array(part: Any) -> Array:
    array: Array = part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part)
    return array


def _message(deployed: Deployed, network: Network, batch: Sequence[Array], parity: Parity) -> str:
    place = first_departure(deployed, network, batch, parity.runtime, parity.kind)
    measured = (
        f"max|a-b| / max|b| is {parity.max_relative:.2g} and may be {MAX_RELATIVE:g}"
        if parity.kind == "float"
        else f"cosine is {parity.cosine:.5f} (at least {MIN_COSINE}), agreement {parity.agreement:.3f} (at least {MIN_AGREEMENT})"
    )
    where = f"the first node whose output departs is {place}" if place else "no single node departs by itself"
    return (
        f"the exported file answers differently in {parity.runtime}: {measured} over {parity.n} samples; {where}: "
        "keep that layer in float (keep_float), or deploy for another target"
    )
