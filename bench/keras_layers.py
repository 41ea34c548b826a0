"""Every layer of Keras that has weights, each in a small model; what the bench and the tests put through lissom.

Each model has a layer with room to lose channels, so that its neighbours must follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Build = Callable[[Any], Any]


def _sequential(shape: Sequence[int | None], *layers: Callable[[Any], Any], dtype: str = "float32") -> Build:
    def build(keras: Any) -> Any:
        return keras.Sequential([keras.Input(tuple(shape), dtype=dtype), *(layer(keras.layers) for layer in layers)])

    return build


def _dense(units: int, **options: Any) -> Callable[[Any], Any]:
    return lambda layers: layers.Dense(units, **options)


def _convolution(name: str, rank: int) -> Build:
    shape = {1: (9, 3), 2: (7, 7, 3), 3: (5, 5, 5, 2)}[rank]
    return _sequential(
        shape,
        lambda layers: getattr(layers, name)(8, 3, padding="same", activation="relu"),
        lambda layers: getattr(layers, name)(6, 2, strides=2),
        lambda layers: layers.Flatten(),
        _dense(3),
    )


def _depthwise(name: str, rank: int) -> Build:
    convolution = f"Conv{rank}D"
    return _sequential(
        (7,) * rank + (3,),
        lambda layers: getattr(layers, convolution)(8, 1),
        lambda layers: getattr(layers, name)(3, depth_multiplier=2, activation="relu"),
        lambda layers: layers.Flatten(),
        _dense(3),
    )


def _recurrent(name: str, **options: Any) -> Build:
    return _sequential(
        (5, 4),
        lambda layers: getattr(layers, name)(8, return_sequences=True, **options),
        lambda layers: getattr(layers, name)(6, **options),
        _dense(3),
    )


def _cell(name: str) -> Build:
    return _sequential((5, 4), lambda layers: layers.RNN(getattr(layers, name)(8)), _dense(3))


def _stacked(keras: Any) -> Any:
    layers = keras.layers
    cells = layers.StackedRNNCells([layers.LSTMCell(8), layers.GRUCell(6)])
    return keras.Sequential([keras.Input((5, 4)), layers.RNN(cells), layers.Dense(3)])


def _recurrent_convolution(name: str, rank: int) -> Build:
    return _sequential(
        (4,) + (5,) * rank + (2,),
        lambda layers: getattr(layers, name)(8, 3, padding="same"),
        lambda layers: layers.Flatten(),
        _dense(3),
    )


def _bidirectional(merge: str) -> Build:
    return _sequential(
        (5, 4), lambda layers: layers.Bidirectional(layers.LSTM(8), merge_mode=merge), _dense(3, activation="softmax")
    )


def _attention(keras: Any) -> Any:
    layers = keras.layers
    sequence = keras.Input((5, 12))
    attended = layers.MultiHeadAttention(num_heads=4, key_dim=6, value_dim=5, name="attention")(sequence, sequence)
    mixed = layers.LayerNormalization()(layers.Add()([sequence, attended]))
    return keras.Model(sequence, layers.Dense(3)(layers.GlobalAveragePooling1D()(mixed)))


def _grouped_attention(keras: Any) -> Any:
    layers = keras.layers
    sequence = keras.Input((5, 12))
    attended = layers.GroupQueryAttention(head_dim=6, num_query_heads=4, num_key_value_heads=2)(sequence, sequence)
    return keras.Model(sequence, layers.Dense(3)(layers.Flatten()(layers.Add()([sequence, attended]))))


def _plain_attention(name: str) -> Build:
    def build(keras: Any) -> Any:
        layers = keras.layers
        sequence = keras.Input((5, 4))
        query, value = layers.Dense(8)(sequence), layers.Dense(8)(sequence)
        attended = getattr(layers, name)(use_scale=True)([query, value])
        return keras.Model(sequence, layers.Dense(3)(layers.Flatten()(attended)))

    return build


def _normalisation(name: str, **options: Any) -> Build:
    return _sequential(
        (6, 6, 3),
        lambda layers: layers.Conv2D(8, 3),
        lambda layers: getattr(layers, name)(**options),
        lambda layers: layers.Flatten(),
        _dense(3),
    )


def _adapted(keras: Any) -> Any:
    layer = keras.layers.Normalization()
    layer.adapt(np.array([[0.0, 1.0, 2.0], [2.0, 5.0, 1.0], [1.0, -1.0, 0.5]], np.float32))
    return keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)])


def _reversible(keras: Any) -> Any:
    layers = keras.layers
    embedding = layers.ReversibleEmbedding(20, 8)
    tokens = keras.Input((5,), dtype="int32")
    hidden = layers.Dense(8)(layers.Dense(16, activation="relu")(embedding(tokens)))
    return keras.Model(tokens, embedding(hidden, reverse=True))


LAYERS: dict[str, Build] = {
    "Dense": _sequential((6,), _dense(8, activation="relu"), _dense(3, activation="softmax")),
    "EinsumDense": _sequential(
        (4, 6),
        lambda layers: layers.EinsumDense("abc,cd->abd", (4, 8), bias_axes="d"),
        lambda layers: layers.Flatten(),
        _dense(3),
    ),
    "Embedding": _sequential(
        (6,), lambda layers: layers.Embedding(20, 8), lambda layers: layers.Flatten(), _dense(3), dtype="int32"
    ),
    "ReversibleEmbedding": _reversible,
    **{f"Conv{rank}D": _convolution(f"Conv{rank}D", rank) for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": _convolution(f"Conv{rank}DTranspose", rank) for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": _depthwise(f"DepthwiseConv{rank}D", rank) for rank in (1, 2)},
    **{f"SeparableConv{rank}D": _convolution(f"SeparableConv{rank}D", rank) for rank in (1, 2)},
    **{name: _recurrent(name) for name in ("LSTM", "GRU", "SimpleRNN")},
    **{name: _cell(name) for name in ("LSTMCell", "GRUCell", "SimpleRNNCell")},
    "StackedRNNCells": _stacked,
    **{f"ConvLSTM{rank}D": _recurrent_convolution(f"ConvLSTM{rank}D", rank) for rank in (1, 2, 3)},
    "Bidirectional": _bidirectional("concat"),
    "TimeDistributed": _sequential(
        (4, 6),
        lambda layers: layers.TimeDistributed(layers.Dense(8, activation="relu")),
        lambda layers: layers.Flatten(),
        _dense(3),
    ),
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _grouped_attention,
    "Attention": _plain_attention("Attention"),
    "AdditiveAttention": _plain_attention("AdditiveAttention"),
    "BatchNormalization": _normalisation("BatchNormalization"),
    "LayerNormalization": _normalisation("LayerNormalization"),
    "GroupNormalization": _normalisation("GroupNormalization", groups=4),
    "RMSNormalization": _normalisation("RMSNormalization"),
    "SpectralNormalization": _sequential(
        (6,), lambda layers: layers.SpectralNormalization(layers.Dense(8)), _dense(3)
    ),
    "Normalization": _adapted,
    "PReLU": _normalisation("PReLU", shared_axes=[1, 2]),
}  # fmt: skip
"""By the layer's name in ``keras.layers``: what builds a model with it."""


def settle(model: Any, seed: int = 0) -> Any:
    """Random values in place of zeros and ones, so that a tensor that is lost or mixed up shows in the outputs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for variable in model.weights:
        value = variable.value.detach()
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            signed = (noise - 0.5) * (2 / max(1, value[..., :1].numel() if value.ndim else 1) ** 0.5)
            if variable.name not in ("mean", "variance"):  # of the data, which their layer has put into other terms already
                variable.assign(noise + 0.5 if variable.name in ("gamma", "moving_variance") else signed)
    return model
