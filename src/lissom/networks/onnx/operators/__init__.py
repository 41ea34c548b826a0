"""The functions that compute ONNX operators with torch, by subject; importing this package fills the table."""

from lissom.networks.onnx.operators import (  # noqa: F401
    activation,
    attention,
    comparison,
    convolution,
    detection,
    elementwise,
    generate,
    index,
    loss,
    matrix,
    normalisation,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shape,
    shape_rules,
    signal,
)
