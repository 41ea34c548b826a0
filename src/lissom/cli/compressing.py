"""compress and demo: a network and a limit in, files and evidence out."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lissom.cli import options
from lissom.cli.console import out, print_json, progress_for, reported, table

if TYPE_CHECKING:
    from lissom.report.record import Record

__all__ = ["register"]

EXAMPLES = """Examples:

  lissom compress model.onnx --data val.npz --max-drop 1% --out small/

  lissom compress examples.lenet:lenet5 --weights demo/lenet5.safetensors --data demo/digits.npz --max-drop 0.5% --out small/

  lissom compress model.onnx --data photos/ --preprocess imagenet --goal latency --max-drop 1% --out fast/

  lissom compress model.onnx --data val.npz --recipe small/recipe.yaml --out again/"""


@reported
def compress(
    model: options.Model,
    data: options.Data,
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result; an interrupted run resumes there.")],
    weights: options.Weights = None,
    max_drop: Annotated[str | None, typer.Option(help="What the metric may lose: 1%, 0.5%.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Size of the file that ships: 2MB, 300kB.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Time of one call with one sample, one thread: 5ms.")] = None,
    max_time: Annotated[str | None, typer.Option(help="Time for the search: 20min. The best so far is the result.")] = None,
    goal: Annotated[str, typer.Option(help="What to minimise within the limits: size or latency.")] = "size",
    ship: Annotated[str | None, typer.Option(help="The file that counts: archive, onnx or weights.")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Train the whole curve of size against accuracy in one run.")] = False,
    recipe: Annotated[Path | None, typer.Option(help="A recipe.yaml to follow, in place of a search.")] = None,
    preprocess: options.PreprocessName = None,
    shapes: options.Input = None,
    task: options.Task = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    trust: options.Trust = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what stands in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what would be done.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a network small (or fast) within limits, and write files, recipe, figures and a report."""
    from lissom.compress import compress as run
    from lissom.compress import plan, raise_if_short
    from lissom.loading import open_any
    from lissom.search.limits import parse_bytes, parse_drop, parse_seconds

    arguments: dict[str, Any] = {
        "max_drop": None if max_drop is None else parse_drop(max_drop),
        "max_size": None if max_size is None else parse_bytes(max_size),
        "max_latency": None if max_latency is None else parse_seconds(max_latency, "--max-latency"),
        "max_time": None if max_time is None else parse_seconds(max_time, "--max-time"),
        "recipe": recipe, "goal": goal, "curve": curve, "ship": ship, "task": task, "seed": seed, "device": device,
        "force": force, "out": to,
        "command": shlex.join(["lissom", *sys.argv[1:]]),
    }  # fmt: skip
    network = open_any(model, weights=weights, preprocess=preprocess, input_shapes=shapes, data=data, trust=trust)
    if dry_run:
        _print_plan(plan(network, data, **arguments), as_json=as_json)
        return
    with progress_for(quiet=quiet or as_json) as progress:
        result = run(network, data, progress=progress, **arguments)
    if as_json:
        print_json(json.loads(result.record.to_json()))
    else:
        _summary(result.record, to)
    raise_if_short(result)


def _summary(record: Record, folder: Path) -> None:
    from lissom.report.wording import byte_text, change_text, ms_text, times_text, value_text

    metric, sizes, shipped = record.metric, record.bytes, record.shipped_bytes
    rows = [
        (
            f"size ({record.ship})",
            byte_text(sizes.source),
            byte_text(shipped or 0),
            times_text(sizes.source / shipped) if shipped else "",
        )
    ]
    if record.ratio is not None and sizes.weights_only is not None:
        rows.append(
            (
                "weights alone",
                byte_text(sizes.weights_only * record.ratio),
                byte_text(sizes.weights_only),
                times_text(record.ratio),
            )
        )
    before, after = (value_text(value, metric.unit) for value in (metric.before, metric.after))
    change = change_text(metric.drop, metric.unit, metric.higher_is_better)
    rows.append((f"{metric.name} ({metric.n:,} {metric.split})", before, after, change))
    for latency in record.latency:
        runtime = f"latency ({latency.runtime}, {latency.threads} thread)"
        rows.append((runtime, ms_text(latency.before_ms.p10), ms_text(latency.after_ms.p10), times_text(latency.ratio)))
    if record.peak_memory is not None:
        memory = record.peak_memory
        rows.append(("peak memory", byte_text(memory.before), byte_text(memory.after), ""))
    table(f"{record.model} → {folder}", ("", "before", "after", ""), rows)
    if metric.undecided:
        out.print("The data is too small to tell this drop from its limit: more test samples would decide it.", markup=False)
    for latency in record.latency:
        if not latency.stable:
            out.print("Other work had the CPU while latency was measured: run  lissom bench  on a quiet machine.", markup=False)
    for note in record.notes:
        out.print(f"note: {note}", markup=False)
    out.print(f"The whole story: {folder / 'report.html'}", markup=False)


def _print_plan(lines: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(lines)
        return
    table("What would be done", ("", ""), list(lines.items()))


@reported
def demo() -> None:
    """In a checkout: train a small network on real digits, compress it, and say what it won (needs lissom\\[demo])."""
    from lissom.cli.demo import run_demo

    run_demo()


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command(epilog=EXAMPLES)(compress)
    app.command(epilog="Example, in the top folder of a checkout:  lissom demo")(demo)
