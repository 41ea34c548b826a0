"""[zoo]: halve every coupled group of every architecture in bench/zoo_networks.py, lissom and torch-pruning side by side.

    python bench/zoo.py            # about ten minutes; a stopped run goes on where it was
    python bench/zoo.py --quick    # one architecture of each kind
    python bench/zoo.py --again    # lissom's part of every row anew; what torch-pruning did stands

One row is one architecture, with random weights. lissom halves every group that it can prove; `refused` names the others,
with the reasons. An architecture passes where multiply-accumulates fall by at least 40 % and the sliced network gives what
the network gives with the removed positions of all parameters at zero: max|a-b| / max|b| <= 1e-4 for each output.

torch-pruning's MagnitudePruner (pruning_ratio 0.5, otherwise as its README has it) gets the same networks and the same test,
in a process of its own with 60 seconds of CPU time. Which positions it kept is read off the values that are left; where it
removes channels of the outputs themselves, they are compared on the channels that are left. It needs
`pip install torch-pruning==1.6.1`, and the networks `pip install transformers==5.23`.
"""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import multiprocessing
import resource
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness import Bench, arguments
from lissom.errors import LissomError
from lissom.graph.capture import capture
from lissom.graph.groups import groups, reachable
from lissom.graph.slicing import remove
from lissom.network import Network
from zoo_networks import ZOO, Entry, build

PARITY, FEWER_MACS, SECONDS = 1e-4, 0.40, 60
QUICK = ("ResNetModel", "ViTModel", "BertModel", "LlamaModel", "T5Model", "Wav2Vec2Model")


def with_lissom(entry: Entry) -> dict[str, Any]:
    """Halve every group by lissom, and compare with the masked network."""
    network = build(entry)
    graph = capture(network)
    found = groups(graph)
    keep = {group: np.arange(group.size) % 2 == 0 for group in found}
    removal = remove(network, graph, keep)
    masked = copy.deepcopy(network.module)
    for group in removal.removed:
        for tensor, axis, positions in group.at(np.flatnonzero(~keep[group])):
            if tensor in graph.trainable:
                with torch.no_grad():
                    masked.get_parameter(tensor).index_fill_(axis, torch.tensor(positions), 0)
    after = capture(removal.network).macs
    reference = Network(masked, network.example_inputs).outputs(*network.example_inputs)
    return {
        "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
        "groups": len(found),
        "halved": len(removal.removed),
        "refused": dict(removal.refused),
        "unknown_operators": list(graph.unknown),
        "macs_before": graph.macs,
        "macs_after": after,
        "fewer_macs": round(1 - after / graph.macs, 4),
        "max_relative": largest_difference(removal.network.outputs(*network.example_inputs), reference),
        "reachable": round(reachable(graph, removal.removed), 4),
    }


def with_torch_pruning(entry: Entry) -> dict[str, Any]:
    """Prune half by torch-pruning's MagnitudePruner, and compare with the masked network."""
    import torch_pruning as tp

    network = build(entry)
    pruned = copy.deepcopy(network.module)
    inputs = network.example_inputs
    pruner = tp.pruner.MagnitudePruner(pruned, inputs, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5)
    pruner.step()
    before = capture(network).macs
    answer = Network(pruned, inputs).outputs(*inputs)
    kept, masked = masked_as(network.module, pruned)
    reference = Network(masked, inputs).outputs(*inputs)
    after = capture(Network(pruned, inputs)).macs
    return {
        "fewer_macs": round(1 - after / before, 4),
        "max_relative": min(largest_difference(answer, view) for view in narrowed(reference, answer, kept)),
    }


def masked_as(original: nn.Module, pruned: nn.Module) -> tuple[list[tuple[int, np.ndarray]], nn.Module]:
    """The original with zeros wherever a value is not left in the pruned network, and for each axis that lost positions its
    length and what it kept. Random values are all different, so the values say which positions they are from.
    """
    masked = copy.deepcopy(original)
    left = dict(pruned.named_parameters())
    kept: list[tuple[int, np.ndarray]] = []
    for name, parameter in masked.named_parameters():
        if name not in left or left[name].shape == parameter.shape:
            continue
        whole = parameter.detach().numpy()
        order = np.argsort(whole, axis=None)
        places = order[np.searchsorted(whole.ravel()[order], left[name].detach().numpy().ravel())]
        axes = [np.unique(axis) for axis in np.unravel_index(places, whole.shape)]
        mask = np.zeros(whole.shape, bool)
        mask[np.ix_(*axes)] = True
        kept += [(length, axis) for length, axis in zip(whole.shape, axes, strict=True) if len(axis) < length]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.where(mask, whole, 0)))
    return kept, masked


def narrowed(
    reference: Sequence[Tensor], answer: Sequence[Tensor], kept: Sequence[tuple[int, np.ndarray]]
) -> list[tuple[Tensor, ...]]:
    """The reference on the channels that the answer has; one for each guess at which these are."""
    guesses: dict[tuple[int, int], list[np.ndarray]] = {}
    for length, axis in kept:
        known = guesses.setdefault((length, len(axis)), [])
        if not any(np.array_equal(axis, other) for other in known):
            known.append(axis)
    views: list[list[Tensor]] = []
    for want, got in zip(reference, answer, strict=True):
        options = [want]
        for place, (long, short) in enumerate(zip(want.shape, got.shape, strict=True)):
            if long != short:
                chosen = guesses.get((long, short), [])[:12]
                options = [each.index_select(place, torch.from_numpy(axis)) for each in options for axis in chosen]
        views.append(options)
    return list(itertools.islice(itertools.product(*views), 200)) or [tuple(reference)]


def largest_difference(answer: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """The largest ``max|a-b| / max|b|`` of an output; infinite where shapes differ or something is NaN."""
    worst = 0.0
    for got, want in zip(answer, reference, strict=True):
        if got.shape != want.shape:
            return float("inf")
        if want.is_floating_point() and want.numel():
            share = float((got - want).abs().max() / want.abs().max())
            worst = max(worst, share) if share == share else float("inf")
    return worst


def in_a_process(work: Callable[[Entry], dict[str, Any]], entry: Entry) -> dict[str, Any]:
    """Run ``work`` in a process of its own with a limit of CPU time; what went wrong is its `error`."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(work, entry, sending))
    process.start()
    sending.close()  # so that a process that is over its limit, and killed, ends the waiting
    try:
        return dict(receiving.recv())
    except EOFError:
        return {"error": f"no answer in {SECONDS} seconds"}
    finally:
        process.kill()
        process.join()


def _report(work: Callable[[Entry], dict[str, Any]], entry: Entry, sending: Any) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = round(used.ru_utime + used.ru_stime) + SECONDS  # of CPU time: a busy machine must not fail a network
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            answer = work(entry)
        answer["max_relative"] = float(f"{answer['max_relative']:.1e}") if answer["max_relative"] != float("inf") else None
    except (LissomError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ImportError,
            NotImplementedError, ZeroDivisionError, RecursionError) as error:  # fmt: skip
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    sending.send(answer)


def passed(found: Mapping[str, Any]) -> bool:
    """Whether the network became smaller by what was asked, and computes what the masked one does."""
    return (
        "error" not in found
        and found["max_relative"] is not None
        and found["max_relative"] <= PARITY
        and found["fewer_macs"] >= FEWER_MACS
    )


def make_row(entry: Entry, theirs: dict[str, Any] | None = None) -> dict[str, Any]:
    """Both tools on one architecture; ``theirs`` is what torch-pruning did before, where that stands."""
    ours, theirs = in_a_process(with_lissom, entry), theirs or in_a_process(with_torch_pruning, entry)
    return {
        "family": entry.family,
        "passed": passed(ours),
        "lissom": ours,
        "torch_pruning_passed": passed(theirs),
        "torch_pruning": theirs,
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Shares over all architectures of the list that have a row."""
    if not rows:
        return {}
    share = sum(row["passed"] for row in rows) / len(rows)
    theirs = sum(row["torch_pruning_passed"] for row in rows) / len(rows)
    return {
        "architectures": len(rows),
        "pruned_with_parity": round(share, 4),
        "pruned_with_parity_and_no_refusal": round(
            sum(row["passed"] and not row["lissom"]["refused"] for row in rows) / len(rows), 4
        ),
        "parameters_reachable": statistics.median(row["lissom"].get("reachable", 0.0) for row in rows),
        "torch_pruning": round(theirs, 4),
        "lead_over_torch_pruning": round(share - theirs, 4),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--again", action="store_true", help="lissom's part of every row anew")
    options = parser.parse_args()
    import torch_pruning
    import transformers

    transformers.logging.set_verbosity_error()
    print("transformers", transformers.__version__, "torch-pruning", metadata.version("torch_pruning"), torch_pruning.__name__)
    bench = Bench("zoo", figures, quick=options.quick)
    theirs = {row["architecture"]: row["torch_pruning"] for row in bench.rows}
    if options.again:
        bench.forget(lambda _: True)
    for entry in ZOO:
        if not options.quick or entry.name in QUICK:
            bench.row(
                {"architecture": entry.name},
                lambda entry=entry: make_row(entry, theirs.get(entry.name) if options.again else None),
            )
    print(bench.save())


if __name__ == "__main__":
    main()
