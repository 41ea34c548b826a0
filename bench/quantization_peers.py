"""What bench/quantization.py compares with: ONNX Runtime's own quantizer, and NNCF in an environment of its own.

NNCF_PYTHON names the interpreter of an environment with nncf and onnx, TORCH_PEERS a folder that holds torchao and Neural
Compressor; where there is none, their columns are missing.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.deploy import Deploy, deploy
from lissom.network import Network
from quantization_cost import Made, kept

Array = npt.NDArray[Any]
NNCF_PYTHON = os.environ.get("NNCF_PYTHON", "/tmp/peers/nncf/bin/python")
TORCH_PEERS = os.environ.get("TORCH_PEERS", "")


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


PRODUCTS = {"op_types_to_quantize": ["MatMul", "Gemm", "Gather"]}


def by_onnxruntime(kind: str, source: Path, network: Network, samples: tuple[Array, ...], folder: Path) -> dict[str, Made]:
    """quantize_static after its own preparation: integer types, granularity, and range methods."""
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    if not prepared.exists():
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)

    def quantize(types: str, method: str, out: Path) -> None:
        extra = {"ActivationSymmetric": types[0] == "S", "CalibPercentile": 99.99, "MatMulConstBOnly": kind == "minilm"}
        q.quantize_static(
            str(prepared), str(out), Reader(network.input_names, samples), quant_format=q.QuantFormat.QDQ,
            per_channel=True, activation_type=q.QuantType.QUInt8 if types[0] == "U" else q.QuantType.QInt8,
            weight_type=q.QuantType.QInt8, calibrate_method=getattr(q.CalibrationMethod, method), extra_options=extra,
            **(PRODUCTS if kind == "minilm" else {}),
        )  # fmt: skip

    made = {}
    for types, method in itertools.product(("U8S8", "S8S8"), ("MinMax", "Percentile")):
        out = folder / f"onnxruntime-{types}-{method}.onnx"
        made[out.stem] = kept(out, functools.partial(quantize, types, method, out))
    return made


NNCF = """
import sys, numpy as np, onnx, nncf
source, arrays, out, kind, bias = sys.argv[1:]
data = np.load(arrays); names = list(data); n = len(data[names[0]])
items = [{name: data[name][i:i + 1] for name in names} for i in range(n)]
held = {line.split()[0]: int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("Vm")}
open("/proc/self/clear_refs", "w").write("5")
extra = {"model_type": nncf.ModelType.TRANSFORMER} if kind == "minilm" else {}
model = nncf.quantize(onnx.load(source), nncf.Dataset(items), subset_size=n, preset=nncf.QuantizationPreset.MIXED,
                      fast_bias_correction=bias == "fast", **extra)
onnx.save(model, out)
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")) - held["VmRSS:"])
"""


def by_nncf(kind: str, network: Network, samples: tuple[Array, ...], folder: Path) -> dict[str, Made]:
    """nncf.quantize on an ONNX file of operator set 18, with its quick and its accurate bias correction.

    Of MiniLM in operator set 21, it writes a file that ONNX Runtime 1.32 does not open.
    """
    if not Path(NNCF_PYTHON).exists():
        return {}
    source, inputs = folder / "nncf-source.onnx", folder / "inputs.npz"
    if not inputs.exists():
        deploy(network, Deploy(opset=18)).save(source)
        np.savez(inputs, **dict(zip(network.input_names, samples, strict=True)))

    def quantize(bias: str, out: Path) -> float | None:
        command = [NNCF_PYTHON, "-c", NNCF, str(source), str(inputs), str(out), kind, bias]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print("nncf:", done.stderr.strip().splitlines()[-1:], flush=True)
            return None
        return float(done.stdout.split()[-1])

    outs = {bias: folder / f"nncf-{bias}.onnx" for bias in ("fast", "accurate")}
    found = [kept(out, functools.partial(quantize, bias, out)) for bias, out in outs.items()]
    return {made.file.stem: made for made in found if made.file.exists()}


TORCH = """
import sys, warnings; warnings.filterwarnings("ignore")
sys.path.append(sys.argv[1])
import torch, quantization as bench
kind, number, tool, out = sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
torch.set_num_threads(1)
network, samples = bench.NETWORKS[kind]()
seen, _ = bench.split_of(samples, number)
examples = tuple(torch.from_numpy(part[:2]) for part in seen)
shapes = tuple({0: torch.export.Dim("batch", min=1, max=64)} for _ in examples)
if tool == "torchao":
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    graph = torch.export.export(network.module.eval(), examples, dynamic_shapes=shapes, strict=False).module()
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared, convert = prepare_pt2e(graph, quantizer), convert_pt2e
else:
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare
    graph = export(network.module.eval(), example_inputs=examples, dynamic_shapes=shapes)
    prepared = prepare(graph, get_default_static_config())
with torch.no_grad():
    for start in range(0, len(seen[0]), bench.BATCH):
        prepared(*(torch.from_numpy(part[start:start + bench.BATCH]) for part in seen))
torch.onnx.export(convert(prepared), examples, dynamo=True, optimize=False, dynamic_shapes=shapes, opset_version=21).save(out)
"""


def by_torch(kind: str, number: int, folder: Path) -> dict[str, Made]:
    """Static quantization for x86 by torchao and by Neural Compressor, whose graphs torch.onnx.export writes as QDQ files.

    Neural Compressor's file holds its weights in float32, and rounds them when it is loaded. CPU seconds count the start, too.
    """
    if not TORCH_PEERS:
        return {}

    def quantize(tool: str, out: Path) -> None:
        command = [sys.executable, "-c", TORCH, TORCH_PEERS, kind, str(number), tool, str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{tool}:", done.stderr.strip().splitlines()[-1:], flush=True)

    outs = {tool: folder / f"{tool}.onnx" for tool in ("torchao", "neural-compressor")}
    found = [kept(out, functools.partial(quantize, tool, out)) for tool, out in outs.items()]
    return {made.file.stem: made for made in found if made.file.exists()}
