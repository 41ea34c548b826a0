"""Stem: an image's first convolution, widened at run time to a number of channels that integer kernels are made for."""

from __future__ import annotations

import numpy as np

from lissom.deploy.editing import Editor, attributes, make_node

__all__ = ["widen_stem"]

MOST_ADDED = 27
"""Zeros that are added to what one output is summed from: measured, 3x3 gains by any padding, 5x5 by one channel, 7x7 by none."""


def widen_stem(editor: Editor, channels: int) -> int:
    """Let each integer convolution that reads an input of the network read channels of zeros beside the image's own.

    ONNX Runtime computes a convolution in integers straight from the image only where the number of channels is a
    multiple of 4; three channels are copied apart first, pixel by pixel, which takes longer than the convolution and
    longer than it takes in float. The file's weights stay as they are: the runtime pads them once, when it opens the file,
    with the level that stands for zero, so the answers stay the same to the bit.

    Args:
        editor: An integer graph, changed in place.
        channels: Their number is brought to the next multiple of this.

    Returns:
        How many convolutions were widened.
    """
    producers = editor.producers()
    found = 0
    for conv in [node for node in editor.nodes if node.op_type == "Conv" and attributes(node).get("group", 1) == 1]:
        shown, weight = (producers.get(name) for name in conv.input[:2])
        levels = None if weight is None or weight.op_type != "DequantizeLinear" else editor.constants.get(weight.input[0])
        quantize = None if shown is None or shown.op_type != "DequantizeLinear" else producers.get(shown.input[0])
        if levels is None or quantize is None or levels.dtype.itemsize != 1 or quantize.input[0] not in editor.inputs:
            continue
        missing = -levels.shape[1] % channels
        taps = int(np.prod(levels.shape[2:]))
        if not missing or taps == 1 or missing * taps > MOST_ADDED:
            continue
        assert weight is not None
        zeros = editor.constants[weight.input[2]] if len(weight.input) > 2 else np.zeros(1, levels.dtype)
        if (zeros != zeros.flat[0]).any():
            continue
        fill = editor.add_constant("stem_fill", np.array(zeros.flat[0]))
        pads = editor.add_constant("stem_pads", np.array([0] * levels.ndim + [0, missing] + [0] * (levels.ndim - 2), np.int64))
        image, wide = editor.fresh(f"{quantize.input[0]}.widened"), editor.fresh(f"{weight.input[0]}.widened")
        editor.nodes.append(make_node("Pad", [quantize.input[0], pads], [image]))
        editor.nodes.append(make_node("Pad", [weight.input[0], pads, fill], [wide]))
        quantize.input[0], weight.input[0] = image, wide
        found += 1
    return found
