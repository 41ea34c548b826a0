"""Smoothing: the float graph answers as before, and large channels no longer cost the others their levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lissom import edits
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.fold import fold_batch_norm
from lissom.deploy.pipeline import plain
from lissom.deploy.quantized_graph import float_twin, quantize_graph, return_weights
from lissom.errors import DataRefused
from lissom.grids import Affine
from lissom.network import Network
from lissom.runtimes import open_file


class Block(nn.Module):
    """A layer normalisation with one large channel, two products that read it, and perhaps a residual connection."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.residual = nn.LayerNorm(16), residual
        self.up, self.gate, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
        with torch.no_grad():
            self.norm.weight[3] = 60.0
            self.up.weight[:, 3] /= 30
            self.gate.weight[:, 3] /= 30

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        made: Tensor = self.down(torch.nn.functional.gelu(self.up(normal)) * torch.sigmoid(self.gate(normal)))
        return made + normal * 0.01 if self.residual else made


def _network(*, residual: bool) -> Network:
    return Network(Block(residual=residual), (torch.zeros(2, 16),))


def _graph(made: Network, **fields: bool) -> Network:
    settings = Deploy(precision="int8", target="onnxruntime-cpu", types="U8S8", ranges="minmax", **fields)
    return quantize_graph(plain(made, settings), settings, [(torch.randn(64, 16),)])


@pytest.mark.parametrize("residual", [False, True])
def test_the_float_graph_answers_as_before_and_the_integer_file_is_far_nearer(residual: bool) -> None:
    made, inputs = _network(residual=residual), torch.randn(80, 16, generator=torch.Generator().manual_seed(1))
    expected = made.outputs(inputs)[0].numpy()
    error = {}
    for smooth in (False, True):
        graph = _graph(made, smooth=smooth)
        np.testing.assert_allclose(float_twin(graph).outputs(inputs)[0].numpy(), expected, atol=1e-4)
        deployed = deploy(graph)
        verify(deployed, graph, [(inputs,)])
        error[smooth] = float(np.square(open_file(deployed.to_bytes())(inputs.numpy())[0] - expected).mean())
    assert error[True] < 0.5 * error[False]


def test_a_normalisation_that_only_products_read_takes_the_factor_up() -> None:
    kinds = {}
    for residual in (False, True):
        nodes = deploy(_graph(_network(residual=residual), smooth=True)).model.graph.node
        normalised = next(node.output[0] for node in nodes if node.op_type == "LayerNormalization")
        kinds[residual] = {node.op_type for node in nodes if normalised in node.input}
    assert kinds[False] == {"QuantizeLinear"}
    assert "Mul" in kinds[True]


@pytest.mark.parametrize("residual", [False, True])
def test_weights_return_to_the_users_module_without_their_factors(residual: bool) -> None:
    made = _network(residual=residual)
    folded = edits.copy(made)
    fold_batch_norm(folded.module, folded.example_inputs)
    back = return_weights(_graph(made, smooth=True), folded)
    inputs = torch.randn(8, 16)
    torch.testing.assert_close(back.outputs(inputs)[0], made.outputs(inputs)[0], rtol=1e-4, atol=1e-4)
    if residual:
        torch.testing.assert_close(edits.value(back.module, "up.weight"), edits.value(made.module, "up.weight"))


def test_levels_that_weights_have_already_stay() -> None:
    made = _network(residual=True)
    edits.attach(made.module, "gate.weight", grid=Affine.fit(edits.value(made.module, "gate.weight"), bits=8, channel_axis=0))
    settings = Deploy(precision="int8", target="onnxruntime-cpu", smooth=True)
    names = {tensor.name for tensor in deploy(made, settings, [(torch.randn(64, 16),)]).model.graph.initializer}
    assert {name for name in names if ".smoothed." in name and "levels" in name} == {"down.smoothed.weight.levels"}


def test_infinite_values_are_refused() -> None:
    settings = Deploy(precision="int8", target="onnxruntime-cpu", smooth=True)
    with pytest.raises(DataRefused, match="NaN"):
        deploy(_network(residual=True), settings, [(torch.full((4, 16), torch.inf),)])
