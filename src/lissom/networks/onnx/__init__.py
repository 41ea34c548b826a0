"""The ONNX door: an ONNX file becomes a trainable network whose parameters are the file's initialisers."""

from lissom.networks.onnx.module import OnnxModule
from lissom.networks.onnx.names import original_name
from lissom.networks.onnx.read import read_module, read_onnx
from lissom.networks.onnx.sizes import Sizes, changed_sizes
from lissom.networks.onnx.tensors import read_sparse, read_tensor

__all__ = [
    "OnnxModule", "Sizes", "changed_sizes", "original_name", "read_module", "read_onnx", "read_sparse", "read_tensor",
]  # fmt: skip
