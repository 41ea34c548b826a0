"""pack and unpack: weights to an archive and back, with no data and no training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lissom.cli import options
from lissom.cli.console import out, print_json, reported

__all__ = ["register"]


@reported
def pack(
    source: Annotated[Path, typer.Argument(help="A .safetensors, .pt, .onnx or .keras file.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="The .lissom file to write.")],
    base: Annotated[Path | None, typer.Option(help="Store the difference to this file, which unpack then needs.")] = None,
    quality: Annotated[
        float | None, typer.Option(help="Lossy: signal-to-noise ratio of each tensor in dB (30 is coarse, 50 is fine).")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="Lossy: what the metric may lose on --data, 1% or 0.5%."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="What --max-drop is measured on: a .npz file or a folder.")] = None,
    network: Annotated[
        str | None, typer.Option(help="package.module:callable that runs a file of weights; a .onnx file runs itself.")
    ] = None,
    task: options.Task = None,
    seed: options.Seed = 0,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave out the graph of a .onnx or .keras file.")] = False,
    effort: Annotated[str, typer.Option(help="best (smallest) or fast.")] = "best",
    as_json: options.Json = False,
) -> None:
    """Put weights into one small archive; exact unless --quality or --max-drop is given."""
    from lissom.pack import pack as run
    from lissom.search.limits import parse_drop

    written = run(
        source, to, base=base, quality=quality, max_drop=None if max_drop is None else parse_drop(max_drop), data=data,
        network=network, task=task, seed=seed, weights_only=weights_only, effort=effort,
    )  # fmt: skip
    before, after = source.stat().st_size, to.stat().st_size
    if as_json:
        print_json({"source": before, "archive": after, "ratio": before / after, "tensors": len(written)})
    else:
        out.print(f"{to}: {after:,} bytes, {before / after:.2f} times smaller than {source} ({before:,})", markup=False)


@reported
def unpack(
    archive: Annotated[Path, typer.Argument(help="A .lissom file.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="A .safetensors, .pt, .onnx or .keras file to write.")],
    base: Annotated[Path | None, typer.Option(help="The file that the archive was packed against.")] = None,
) -> None:
    """Give back the weights, or the model, that an archive holds."""
    from lissom.pack import unpack as run

    run(archive, to, base=base)
    out.print(f"{to}: {to.stat().st_size:,} bytes", markup=False)


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command(epilog="Example:  lissom pack model.onnx -o model.lissom --max-drop 1% --data val.npz")(pack)
    app.command(epilog="Example:  lissom unpack model.lissom -o back.safetensors")(unpack)
