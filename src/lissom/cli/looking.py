"""inspect and doctor: what is in a network, and what is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lissom.cli import options
from lissom.cli.console import out, print_json, reported, table

if TYPE_CHECKING:
    from torch import Tensor

    from lissom.inspection import Inspection
    from lissom.network import Network

__all__ = ["register"]


@reported
def inspect(
    model: options.Model,
    weights: options.Weights = None,
    preprocess: options.PreprocessName = None,
    shapes: options.Input = None,
    trust: options.Trust = False,
    quantization: Annotated[
        str | None,
        typer.Option("--quantization", help="Data, as --data takes it: show what 8 and 4 bits do to each layer alone."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show layers, parameters, MACs, coupled channels, and what can and cannot be made smaller; or a weights file's tensors."""
    from lissom.inspection import inspect as run
    from lissom.inspection import inspect_weights
    from lissom.loading import open_any
    from lissom.weights_files import holds_no_network

    if holds_no_network(Path(model)):
        alone = inspect_weights(Path(model))
        print_json(alone.to_dict()) if as_json else _show(alone)
        return
    network = open_any(model, weights=weights, preprocess=preprocess, input_shapes=shapes, partial=True, trust=trust)
    found = run(network, () if quantization is None else _some(quantization, network))
    if as_json:
        print_json(found.to_dict())
    else:
        _show(found)


def _some(data: str, network: Network) -> list[tuple[Tensor, ...]]:
    """A few calibration inputs: enough to rank layers by."""
    from lissom.data import load_data

    return [load_data(data, network).calibration.first(64)[0]]


def _show_quantization(found: Inspection) -> None:
    rows = [
        (entry.name, entry.bits, f"{entry.signal_to_noise:.1f} dB", f"{entry.output_error:.3g}", f"{entry.bytes:,}")
        for entry in found.quantization
    ]
    table(
        "Each layer quantized alone, the worst first",
        ("tensor", "bits", "signal to noise", "error of the outputs", "bytes"),
        rows,
    )


def _show(found: Inspection) -> None:
    inputs = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in found.inputs.items())
    macs = "" if found.macs is None else f", {found.macs:,} MACs a sample"
    takes = f"; takes {inputs}" if found.inputs else ""
    out.print(f"{found.model}: {found.parameters:,} parameters{macs}{takes}", markup=False)
    columns = ("tensor", "layer", "shape", "parameters", "bytes", "zeros", "grid", "MACs")
    rows = [
        (
            layer.name,
            layer.kind,
            "x".join(map(str, layer.shape)),
            f"{layer.parameters:,}",
            f"{layer.bytes:,}",
            f"{layer.sparsity:.1%}",
            layer.grid,
            "" if layer.macs is None else f"{layer.macs:,}",
        )
        for layer in found.layers
    ]
    table("", columns, rows)
    if found.groups:
        shown = [(group["name"], group["size"], len(group["members"])) for group in found.groups]
        table(f"Channels that can go ({found.prunable:.0%} of the parameters)", ("group", "channels", "axes"), shown)
    if found.quantization:
        _show_quantization(found)
    for line in (*(f"{fixed['tensor']} stays whole: {fixed['why']}" for fixed in found.fixed), *found.notes):
        out.print(line, markup=False)
    if found.unknown:
        out.print(f"No rule follows {', '.join(found.unknown)}: what touches them is left alone", markup=False)


@reported
def doctor(as_json: options.Json = False) -> None:
    """Show versions, runtimes, instruction sets and threads, and what is missing with the command that installs it."""
    from lissom.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.to_dict())
        return
    for title, rows in diagnosis.sections():
        table(title, ("", "", ""), rows)


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command(epilog="Example:  lissom inspect examples.lenet:lenet5 --weights demo/lenet5.safetensors")(inspect)
    app.command(epilog="Example:  lissom doctor --json")(doctor)
