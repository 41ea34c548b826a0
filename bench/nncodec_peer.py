"""NNCodec 2.1.3 (ISO/IEC 15938-17) on the arrays of one file: sizes, CPU seconds and what it decodes to.

    python bench/nncodec_peer.py weights.npz out.npz --qp -26 [--dependent] [--runs 3]

This runs in NNCodec's own environment and imports nothing of lissom: `pip install --no-deps nncodec==2.1.3` into any
environment that has torch, numpy and scikit-learn. What it imports and does not need here is stubbed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from unittest.mock import MagicMock

import numpy as np

STUBBED = (
    "torchvision",
    "torchvision.models",
    "torchvision.transforms",
    "torchvision.datasets",
    "cv2",
    "ptflops",
    "torchmetrics",
)
STUBBED += ("pandas", "h5py", "torchvision.models.feature_extraction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--qp", type=int, required=True)
    parser.add_argument("--dependent", action="store_true", help="dependent quantization")
    parser.add_argument("--runs", type=int, default=1, help="of which the quickest counts, each way")
    chosen = parser.parse_args()
    for name in STUBBED:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - whatever is missing or broken is stubbed
            sys.modules[name] = MagicMock()
    from nncodec import nnc

    with np.load(chosen.source) as file:
        arrays = dict(file)
    encoding, decoding = [], []
    for _ in range(chosen.runs):
        started = time.process_time()
        coded = nnc.compress(arrays, qp=chosen.qp, use_dq=chosen.dependent, return_bitstream=True, bitstream_path=None)
        middle = time.process_time()
        decoded = nnc.decompress(coded)
        encoding.append(middle - started)
        decoding.append(time.process_time() - middle)
    np.savez(
        chosen.target,
        bytes=len(coded),
        encode=min(encoding),
        decode=min(decoding),
        **{f"tensor/{name}": np.asarray(value, np.float32) for name, value in decoded.items()},
    )


if __name__ == "__main__":
    main()
