"""The networks that bench/onnx_reader.py has exported by others' exporters: small, seeded, one function each."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Exported = tuple[Any, tuple[Tensor, ...]]
"""The live network (None where it is no torch module), and inputs with a batch of 2."""


def export(exporter: str, name: str, opset: int, path: Path) -> Exported:
    """Write one file; the network it came from, and inputs for it."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _EXPORTERS[exporter](name, opset, path)


def _torch_old(name: str, opset: int, path: Path) -> Exported:
    module, inputs = _NETWORKS[name]()
    names = [f"input_{i}" for i in range(len(inputs))]
    axes = {each: {0: "batch"} for each in [*names, "output"]}
    torch.onnx.export(
        module.eval(),
        inputs,
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=names,
        output_names=["output"],
        dynamic_axes=axes,
    )
    return module, inputs


def _torch_new(name: str, opset: int, path: Path) -> Exported:
    module, inputs = _NETWORKS[name]()
    return _by_dynamo(module.eval(), inputs, opset, path)


def _by_dynamo(module: nn.Module, inputs: tuple[Tensor, ...], opset: int, path: Path) -> Exported:
    shapes = tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in inputs)
    program = torch.onnx.export(
        module, inputs, dynamo=True, opset_version=opset, dynamic_shapes=shapes, external_data=False, verbose=False
    )
    program.save(str(path))
    return module, inputs


class _Answer(nn.Module):
    """A transformers model that answers with a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, return_dict=False)[0]


def _transformers(name: str, opset: int, path: Path) -> Exported:
    import transformers

    kind, settings, shape = _TRANSFORMERS[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    config.use_cache = False
    module = _Answer(getattr(transformers, f"{kind}Model")(config)).eval()
    inputs = torch.randint(0, 90, shape) if len(shape) == 2 and name != "wav2vec2" else torch.randn(shape)
    return _by_dynamo(module, (inputs,), opset, path)


def _keras(name: str, opset: int, path: Path) -> Exported:
    os.environ["KERAS_BACKEND"] = "torch"
    beside = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if str(Path(path).resolve()) != beside]  # a bench beside this one is called keras
    import keras

    keras.utils.set_random_seed(0)
    model, shape = _KERAS[name](keras)
    model(torch.zeros(2, *shape))  # the exporter wants a model that was called
    model.export(str(path), format="onnx", verbose=False, opset_version=opset)
    return None, (torch.randn(2, *shape),)


def _skl2onnx(name: str, opset: int, path: Path) -> Exported:
    from skl2onnx import to_onnx
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.neural_network import MLPRegressor

    x = np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)
    made = {
        "mlp_regressor": lambda: MLPRegressor(hidden_layer_sizes=(16, 8), max_iter=5, random_state=0).fit(x, x[:, 0]),
        "pca": lambda: PCA(4, random_state=0).fit(x),
        "truncated_svd": lambda: TruncatedSVD(4, random_state=0).fit(x),
    }[name]()
    path.write_bytes(to_onnx(made, x[:1], target_opset=opset).SerializeToString())
    return None, (torch.from_numpy(x[:2]),)


_EXPORTERS: dict[str, Callable[[str, int, Path], Exported]] = {
    "torch_old": _torch_old,
    "torch_new": _torch_new,
    "transformers": _transformers,
    "keras": _keras,
    "skl2onnx": _skl2onnx,
}

_TEXT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_TEXT, "num_key_value_heads": 2}
_PATCHES = {**_TEXT, "image_size": 32, "patch_size": 8}
_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "bert": ("Bert", _TEXT, (2, 16)),
    "distilbert": ("DistilBert", {"vocab_size": 100, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}, (2, 16)),
    "roberta": ("Roberta", {**_TEXT, "max_position_embeddings": 40}, (2, 16)),
    "albert": ("Albert", {**_TEXT, "embedding_size": 16}, (2, 16)),
    "electra": ("Electra", {**_TEXT, "embedding_size": 16}, (2, 16)),
    "gpt2": ("GPT2", {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4}, (2, 16)),
    "llama": ("Llama", _DECODER, (2, 16)),
    "mistral": ("Mistral", {**_DECODER, "sliding_window": 8}, (2, 16)),
    "vit": ("ViT", _PATCHES, (2, 3, 32, 32)),
    "deit": ("DeiT", _PATCHES, (2, 3, 32, 32)),
    "convnext": ("ConvNext", {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}, (2, 3, 64, 64)),
    "resnet": ("ResNet", {"hidden_sizes": [16, 32], "depths": [2, 2], "embedding_size": 8}, (2, 3, 64, 64)),
    "regnet": ("RegNet", {"hidden_sizes": [16, 32], "depths": [2, 2], "embedding_size": 8, "groups_width": 8}, (2, 3, 64, 64)),
    "segformer": (
        "Segformer",
        {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]},
        (2, 3, 64, 64),
    ),
    "wav2vec2": ("Wav2Vec2", {**_TEXT, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}, (2, 4000)),
    "mobilenet_v2": ("MobileNetV2", {"depth_multiplier": 0.35, "image_size": 64}, (2, 3, 64, 64)),
}  # fmt: skip


def _keras_convolutional(keras: Any) -> tuple[Any, tuple[int, ...]]:
    layers = keras.layers
    return keras.Sequential([
        keras.Input((28, 28, 1)), layers.Conv2D(8, 3, padding="same", activation="relu"), layers.BatchNormalization(),
        layers.MaxPooling2D(), layers.Conv2D(16, 3, strides=2, padding="same"), layers.Flatten(), layers.Dense(10),
    ]), (28, 28, 1)  # fmt: skip


def _keras_separable(keras: Any) -> tuple[Any, tuple[int, ...]]:
    layers = keras.layers
    return keras.Sequential([
        keras.Input((32, 32, 3)), layers.SeparableConv2D(16, 3, padding="same"), layers.LayerNormalization(), layers.LeakyReLU(),
        layers.DepthwiseConv2D(3, strides=2, padding="same"), layers.AveragePooling2D(2), layers.Conv2D(4, 3, activation="swish"),
        layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"),
    ]), (32, 32, 3)  # fmt: skip


def _keras_recurrent(keras: Any) -> tuple[Any, tuple[int, ...]]:
    layers = keras.layers
    return keras.Sequential([
        keras.Input((10, 6)), layers.Bidirectional(layers.LSTM(8, return_sequences=True)), layers.GRU(8), layers.Dense(3),
    ]), (10, 6)  # fmt: skip


_KERAS: dict[str, Callable[[Any], tuple[Any, tuple[int, ...]]]] = {
    "convolutional": _keras_convolutional,
    "separable": _keras_separable,
    "recurrent": _keras_recurrent,
    "mobilenet_v2": lambda keras: (keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None), (96, 96, 3)),
    "efficientnet_b0": lambda keras: (keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3)), (64, 64, 3)),
}


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.pass_by = nn.Sequential() if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.pass_by(x))


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = inputs * 4
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.BatchNorm2d(wide), nn.Hardswish(), nn.Conv2d(wide, outputs, 1),
        )  # fmt: skip
        self.same = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x if self.same else self.body(x)


class _UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 16, 3, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.ConvTranspose2d(16, 2, 3, 2, 1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = F.leaky_relu(self.down(x))
        return self.last(torch.cat([self.up(F.elu(self.deep(shallow))), shallow], 1))


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = kind(16, 24, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(48, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(ids))[0].mean(1))


class _Upsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        small = F.avg_pool2d(F.gelu(self.conv(x)), 2)
        near = F.interpolate(small, scale_factor=2, mode="nearest")
        smooth = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        corners = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)
        return self.head(torch.cat([near, smooth, corners], 1))


def _lenet() -> Exported:
    body = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(256, 84), nn.ReLU(), nn.Linear(84, 10)), (torch.randn(2, 1, 28, 28),)


def _resnet20() -> Exported:
    widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    blocks = [_Residual(*each) for each in widths]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *blocks, *head), (torch.randn(2, 3, 32, 32),)


def _mobile() -> Exported:
    blocks = [_Inverted(*each) for each in ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2))]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 10), nn.LogSoftmax(-1)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), *blocks, *head), (torch.randn(2, 3, 64, 64),)


def _transformer() -> Exported:
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 12, 32),)


_NETWORKS: dict[str, Callable[[], Exported]] = {
    "lenet": _lenet,
    "resnet20": _resnet20,
    "mobile": _mobile,
    "unet": lambda: (_UNet(), (torch.randn(2, 3, 32, 32),)),
    "lstm": lambda: (_Recurrent(nn.LSTM), (torch.randint(0, 50, (2, 12)),)),
    "gru": lambda: (_Recurrent(nn.GRU), (torch.randint(0, 50, (2, 12)),)),
    "transformer": _transformer,
    "upsample": lambda: (_Upsample(), (torch.randn(2, 3, 32, 32),)),
}
