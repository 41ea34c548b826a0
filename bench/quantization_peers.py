"""What bench/quantization.py compares with: ONNX Runtime's own quantizer, and NNCF in an environment of its own.

NNCF_PYTHON names the interpreter of an environment with nncf and onnx; where there is none, NNCF's columns are missing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.network import Network

Array = npt.NDArray[Any]
NNCF_PYTHON = os.environ.get("NNCF_PYTHON", "/tmp/peers/nncf/bin/python")


class Reader:
    """Calibration inputs as onnxruntime.quantization takes them."""

    def __init__(self, names: Sequence[str], samples: tuple[Array, ...]) -> None:
        self.names, self.samples = names, samples
        self.rewind()

    def rewind(self) -> None:
        self.rest = iter(range(len(self.samples[0])))

    def get_next(self) -> dict[str, Array] | None:
        number = next(self.rest, None)
        if number is None:
            return None
        return {name: part[number : number + 1] for name, part in zip(self.names, self.samples, strict=True)}


def by_onnxruntime(source: Path, network: Network, samples: tuple[Array, ...], folder: Path) -> dict[str, bytes]:
    """quantize_static after its own preparation: integer types, granularity, and range methods."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    files = {}
    for types in ("U8S8", "S8S8"):
        for method in ("MinMax", "Percentile"):
            out = folder / f"{types}-{method}.onnx"
            q.quantize_static(
                str(prepared), str(out), Reader(network.input_names, samples), quant_format=q.QuantFormat.QDQ, per_channel=True,
                activation_type=q.QuantType.QUInt8 if types[0] == "U" else q.QuantType.QInt8, weight_type=q.QuantType.QInt8,
                calibrate_method=getattr(q.CalibrationMethod, method),
                extra_options={"ActivationSymmetric": types[0] == "S", "CalibPercentile": 99.99},
            )  # fmt: skip
            files[f"onnxruntime {types} {method}"] = out.read_bytes()
    return files


NNCF = """
import sys, numpy as np, onnx, nncf
source, arrays, out, kind, bias = sys.argv[1:]
data = np.load(arrays); names = list(data); n = len(data[names[0]])
items = [{name: data[name][i:i + 1] for name in names} for i in range(n)]
extra = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "minilm" else {}
model = nncf.quantize(onnx.load(source), nncf.Dataset(items), subset_size=n, preset=nncf.QuantizationPreset.MIXED,
                      fast_bias_correction=bias == "fast", **extra)
onnx.save(model, out)
"""


def by_nncf(kind: str, source: Path, network: Network, samples: tuple[Array, ...], folder: Path) -> dict[str, bytes]:
    """nncf.quantize on the ONNX file, with its quick and its accurate bias correction."""
    if not Path(NNCF_PYTHON).exists():
        return {}
    np.savez(folder / "inputs.npz", **dict(zip(network.input_names, samples, strict=True)))
    files = {}
    for bias in ("fast", "accurate"):
        out = folder / f"nncf-{bias}.onnx"
        done = subprocess.run(
            [NNCF_PYTHON, "-c", NNCF, str(source), str(folder / "inputs.npz"), str(out), kind, bias],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            files[f"nncf {bias}"] = out.read_bytes()
        else:
            print("nncf:", done.stderr.strip().splitlines()[-1:], flush=True)
    return files
