"""The functions that compute ONNX operators with torch, by subject; importing this package fills the table."""

from lissom.networks.onnx.operators import (  # noqa: F401
    activation,
    comparison,
    convolution,
    elementwise,
    generate,
    index,
    matrix,
    normalisation,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    shape_rules,
)
