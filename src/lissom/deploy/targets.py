"""Targets: what each runtime can take, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from lissom.deploy.settings import Types
from lissom.errors import UsageError

__all__ = ["TARGETS", "Target", "row"]


@dataclass(frozen=True)
class Target:
    """What a runtime can take.

    Args:
        runtime: The runtime that measures and proves files for it.
        types: Integer types of activations and weights that it has kernels for, the preferred first.
        narrow: Types of fewer bits that it reads: 4-bit weights in integer kernels (``U8S4``), or computed in float (``U4S4``).
        symmetric: Whether activations must have zero point 0.
        per_channel: Whether weights may have one scale per output channel.
        integer_bias: Operators whose bias must be integer. ONNX Runtime makes a convolution's bias integer itself when
            it loads the file, and a Gemm's only where its output is integer.
        opset: The ONNX operator set that it reads.
        stem_channels: What the channels of an image must be a multiple of for a fast integer convolution.
        block_products: Whether it has a kernel for weights of 4 bits in blocks (``MatMulNBits``).
        measured: Whether types are chosen by running the candidates on this machine.
    """

    runtime: str
    types: tuple[Types, ...]
    narrow: tuple[Types, ...] = ()
    symmetric: bool = False
    per_channel: bool = True
    integer_bias: frozenset[str] = frozenset({"Gemm"})
    opset: int = 21
    stem_channels: int = 1
    block_products: bool = False
    measured: bool = False


NARROW: tuple[Types, ...] = ("U8S4", "U4S4")

TARGETS: dict[str, Target] = {
    "this-machine": Target(
        runtime="onnxruntime", types=("U8S8", "S8S8", "U8S7"), narrow=NARROW, stem_channels=4, block_products=True, measured=True
    ),
    "onnxruntime-cpu": Target(
        runtime="onnxruntime", types=("U8S8", "S8S8", "U8U8", "U8S7"), narrow=NARROW, stem_channels=4, block_products=True
    ),
    "openvino": Target(runtime="openvino", types=("U8S8", "S8S8")),
    # TensorRT wants signed integers and zero points of 0; its row is checked for form, and has not been run here.
    "tensorrt": Target(runtime="onnxruntime", types=("S8S8",), symmetric=True, integer_bias=frozenset()),
    # 7-bit weights cannot saturate the 16-bit sums of CPUs without VNNI, so one file answers alike everywhere.
    "portable": Target(runtime="onnxruntime", types=("U8S7",), opset=18),
}


def row(name: str) -> Target:
    """The target of that name.

    Raises:
        UsageError: there is none.

    >>> row("tensorrt").symmetric
    True
    """
    if name not in TARGETS:
        raise UsageError(f"no target is called {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]
