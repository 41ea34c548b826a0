"""Every layer that has weights goes in, loses half of its channels and weights, and comes out as plain Keras loads it."""

import importlib.util

import numpy as np
import pytest
import torch

from lissom import edits
from lissom.deploy.keras import deploy_keras
from lissom.graph.capture import capture
from lissom.graph.groups import groups
from lissom.graph.slicing import remove
from lissom.networks import open_network

LAYERS = (
    "Dense", "EinsumDense", "Embedding", "ReversibleEmbedding", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose",
    "Conv2DTranspose",
    "Conv3DTranspose", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "LSTM", "GRU", "SimpleRNN",
    "LSTMCell", "GRUCell", "SimpleRNNCell", "StackedRNNCells", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional",
    "TimeDistributed", "MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention", "BatchNormalization",
    "LayerNormalization", "GroupNormalization", "RMSNormalization", "SpectralNormalization", "Normalization", "PReLU",
)  # fmt: skip
WITHOUT_CHANNELS_TO_LOSE = {"LayerNormalization", "RMSNormalization", "SpectralNormalization"}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs Keras: pip install 'lissom[keras]'")


def test_the_table_has_every_layer(zoo):
    assert tuple(zoo.LAYERS) == LAYERS


@pytest.mark.parametrize("name", LAYERS)
def test_in_and_out(keras, zoo, name):
    model = zoo.settle(zoo.LAYERS[name](keras))
    network = open_network(model)
    (example,) = network.example_inputs
    x = torch.randn(32, *example.shape[1:]) if example.is_floating_point() else torch.randint(0, 20, (32, *example.shape[1:]))
    with torch.no_grad():
        assert torch.allclose(network.outputs(x)[0], model(x, training=False), atol=1e-5)
    graph = capture(network)
    assert not graph.unknown
    removal = remove(network, graph, {group: np.arange(group.size) % 2 == 0 for group in groups(graph)})
    assert bool(removal.removed) is (name not in WITHOUT_CHANNELS_TO_LOSE)
    edited = edits.copy(removal.network)
    for tensor in edits.selected(edited.module):
        values = edits.value(edited.module, tensor).abs()
        edits.attach(edited.module, tensor, mask=values >= values.median())
    _, parity = deploy_keras(edited, [(x,)])
    assert parity.holds
