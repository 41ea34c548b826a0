"""evaluate and bench: figures of files as they are."""

from __future__ import annotations

from typing import Annotated

import typer

from lissom.cli import options
from lissom.cli.console import out, print_json, progress_for, reported, table

__all__ = ["register"]


@reported
def evaluate(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    original: Annotated[
        str | None, typer.Option(help="The network that agreement is measured against, where there are no labels.")
    ] = None,
    preprocess: options.PreprocessName = None,
    shapes: options.Input = None,
    task: options.Task = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    as_json: options.Json = False,
) -> None:
    """Measure the metric of a file on the test split, in the runtime that runs it."""
    from lissom.evaluate import evaluate as run
    from lissom.loading import to_run
    from lissom.report.wording import samples_text, value_text

    network = to_run(model, weights=weights, preprocess=preprocess, input_shapes=shapes, data=data, trust=trust)
    reference = None if original is None else to_run(original, preprocess=preprocess, data=data, trust=trust)
    measured = run(network, data, original=reference, task=task, seed=seed)
    if as_json:
        print_json(measured)
    else:
        name, unit = measured["metric"], measured["unit"]
        value, error = (value_text(measured[each], unit) for each in ("value", "standard_error"))
        out.print(f"{model}: {name} {value} ± {error} on {samples_text(measured['n'])} of the {measured['split']} split")


@reported
def bench(
    files: Annotated[
        list[str],
        typer.Argument(
            help="What to compare: .onnx and .lissom run in the runtimes, everything else in torch. The first is the measure."
        ),
    ],
    data: Annotated[str | None, typer.Option("--data", help="Real samples to run on; random ones otherwise.")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Where files run: onnxruntime or openvino; both may be given.")
    ] = None,
    weights: options.Weights = None,
    shapes: options.Input = None,
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    calls: Annotated[int, typer.Option(help="Calls of each file that are timed.")] = 200,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time files side by side, in turns, in one run."""
    from lissom.loading import to_time
    from lissom.measure.latency import bench as run

    opened = {file: to_time(file, weights=weights, input_shapes=shapes, data=data) for file in files}
    with progress_for(quiet=quiet or as_json) as progress:
        rows = run(
            opened, data=data, runtimes=tuple(runtime or ("onnxruntime",)), threads=threads, calls=calls, progress=progress
        )
    if as_json:
        print_json(rows)
        return
    shown = [
        (
            row["file"],
            row["runtime"],
            "" if row["bytes"] is None else f"{row['bytes']:,}",
            f"{row['p10_ms']:.3f}",
            f"{row['p50_ms']:.3f}",
            f"{row['ratio']:.2f}x",
        )
        for row in rows
    ]
    title = f"{threads} thread{'s' if threads > 1 else ''}, {rows[0]['calls']} calls each, in turns of four, {rows[0]['cpu']}"
    table(title, ("file", "runtime", "bytes", "p10 ms", "median ms", "speed"), shown)
    unstable = [f"{row['file']} in {row['runtime']}" for row in rows if not row["stable"]]
    if unstable:
        why = "two halves of the calls differ by over 5 %, or other work had the CPU"
        out.print(f"Not to be trusted: {', '.join(unstable)}: {why}. Run it again on a quiet machine.", markup=False)


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command(epilog="Example:  lissom evaluate small/model.lissom --data demo/digits.npz")(evaluate)
    app.command(epilog="Example:  lissom bench model.onnx small/model.onnx --data val.npz")(bench)
