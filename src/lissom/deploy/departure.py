"""First departure: where in a file its answers begin to differ, for the message of a failed parity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto
from torch.fx import Interpreter, Node

from lissom import edits
from lissom.deploy.deployed import Deployed
from lissom.deploy.editing import add_outputs
from lissom.deploy.export import quiet
from lissom.deploy.fold import fold_batch_norm
from lissom.errors import DeployFailed
from lissom.network import Network
from lissom.runtimes import open_file

__all__ = ["first_departure", "with_outputs"]

Array = npt.NDArray[Any]
FLOAT_LIMIT = 1e-4
COSINE_LIMIT = 0.999


def first_departure(deployed: Deployed, network: Network, batch: Sequence[Array], runtime: str, kind: str) -> str | None:
    """The name and operator of the first node whose output differs, in the order of the graph; None if none does alone."""
    names = _float_values(deployed) if kind == "float" else _integer_values(deployed.model)
    if not names:
        return None
    opened = with_outputs(deployed.model, names).SerializeToString()
    count = len(deployed.model.graph.output)
    got = dict(zip(names, open_file(opened, runtime)(*batch)[count:], strict=True))
    if kind == "float":
        captured = _captured_values(network, batch, set(deployed.origins.values()))
        expected = {name: captured[origin] for name, origin in deployed.origins.items() if origin in captured}
    else:
        expected = dict(zip(names, open_file(opened, optimize=False)(*batch)[count:], strict=True))
    for node in deployed.model.graph.node:
        for name in node.output:
            if name in got and name in expected and _departs(got[name], expected[name], kind):
                return f"{node.name} ({node.op_type})"
    return None


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """The model with further values as outputs, so that a run shows them."""
    shown = ModelProto()
    shown.CopyFrom(model)
    add_outputs(shown, names)
    return shown


def _float_values(deployed: Deployed) -> list[str]:
    outputs = {value.name for value in deployed.model.graph.output}
    computed = [name for node in deployed.model.graph.node for name in node.output]
    return [name for name in computed if name in deployed.origins and name not in outputs]


def _integer_values(model: ModelProto) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]


def _departs(got: Array, expected: Array, kind: str) -> bool:
    if got.shape != expected.shape or not got.size or got.dtype.kind not in "fiu":
        return got.shape != expected.shape
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    if kind == "float":
        return not float(np.abs(a - b).max()) <= FLOAT_LIMIT * max(float(np.abs(b).max()), 1e-30)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return lengths > 0 and float(a @ b) / lengths < COSINE_LIMIT


class _Recorder(Interpreter):
    """Runs a captured graph and keeps the values of some nodes."""

    def __init__(self, module: torch.fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(module)
        self.values: dict[str, Array] = {}
        self._wanted = wanted

    def run_node(self, n: Node) -> Any:
        """Run one node, and keep its value where it is wanted."""
        value = super().run_node(n)
        if n.name in self._wanted and isinstance(value, torch.Tensor):
            self.values[n.name] = value.detach().cpu().numpy()
        return value


def _captured_values(network: Network, batch: Sequence[Array], wanted: set[str]) -> dict[str, Array]:
    copied = edits.copy(network)
    quantized = edits.edited(network.module)
    edits.bake(copied.module)
    keep = {name for name, edit in quantized.items() if edit.grid is not None}
    fold_batch_norm(copied.module, copied.example_inputs, keep=keep)
    try:
        with quiet():
            # Operators must stay whole (conv2d, linear): that is how the exporter names their values.
            program = torch.export.export(copied.module, tuple(torch.from_numpy(array) for array in batch), strict=False)
    except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:  # noqa: SLF001
        raise DeployFailed(f"the network cannot be captured to find where its file departs: {error}") from error
    module = program.module()
    recorder = _Recorder(module, wanted)
    with torch.no_grad():
        recorder.run(*(torch.from_numpy(array) for array in batch))
    return recorder.values
