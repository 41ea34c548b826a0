"""Evidence: limits against what was measured, what is said of candidates that do not pay, layers as the file stores them."""

import numpy as np
import pytest
import torch
from torch import nn

import lissom
from lissom.evidence import _exceeds, _limits, _no_faster, _what_did_not_pay
from lissom.quantize.activations import QuantizeActivations
from lissom.quantize.rounding import RoundWeights
from lissom.report.record import Latency, MetricFigures, Percentiles
from lissom.search.limits import Limits
from lissom.search.trial import Outcome

FLOAT = Outcome(name="float", recipe="as it is", latency=1.0e-3, latency_before=1.0e-3)
SLOWER = Outcome(name="int8 static", recipe="Deploy(precision=int8)", latency=1.3e-3, latency_before=1.0e-3)
FASTER = Outcome(name="strength 0.500", recipe="PruneChannels(macs=0.5)", latency=0.5e-3, latency_before=1.0e-3)


def test_a_candidate_that_is_no_faster_is_dropped_and_said() -> None:
    assert _no_faster(SLOWER, "latency") == "no faster: 1.3 ms, and the original takes 1 ms"
    assert _no_faster(FASTER, "latency") == ""
    assert _no_faster(SLOWER, "size") == ""
    said = list(_what_did_not_pay([FLOAT, SLOWER, FASTER], FASTER, "latency"))
    assert said == ["int8 static was dropped: it is no faster: 1.3 ms, and the original takes 1 ms"]


def test_a_result_that_is_no_faster_is_said() -> None:
    said = list(_what_did_not_pay([FLOAT, SLOWER], FLOAT, "latency"))
    assert said[0].startswith("int8 static was dropped")
    assert said[1].startswith("nothing that was tried is faster within the limits")


def test_layers_of_an_integer_file_are_counted_as_its_levels() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
    network = lissom.Network(module, (torch.zeros(2, 1, 8, 8),))
    x = np.random.default_rng(0).normal(size=(64, 1, 8, 8)).astype(np.float32)
    recipe = lissom.Recipe(deploy=lissom.Deploy(precision="int8", types="U8S8", ranges="minmax"))
    record = lissom.compress(network, x, recipe=recipe, task="classify").record
    convolution, linear = record.layers
    assert (convolution.name, linear.name) == ("0", "4")
    assert linear.bytes_after is not None
    assert linear.bytes_after < 0.4 * linear.bytes_before
    assert record.bytes.weights_only is not None
    assert record.bytes.weights_only < 0.4 * 4 * (144 + 16 + 2304 + 4)
    assert convolution.ms_before is not None
    assert linear.ms_after is not None
    assert record.peak_memory is None or record.peak_memory.after > 0


@pytest.mark.parametrize("transformer", [False, True])
def test_layers_of_a_quantized_graph_are_those_of_the_network(transformer: bool) -> None:
    torch.manual_seed(0)
    if transformer:
        module = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))
        shape = (64, 8)
    else:
        module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4))
        shape = (64, 1, 8, 8)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    recipe = lissom.Recipe((QuantizeActivations(types="U8S8", ranges="minmax", smooth=transformer), RoundWeights(bits=8)))
    record = lissom.compress(lissom.Network(module.eval(), (torch.from_numpy(x[:2]),)), x, recipe=recipe, task="classify").record
    assert len(record.layers) == (3 if transformer else 2)
    for layer in record.layers:
        assert layer.macs is not None
        assert layer.macs.after == layer.macs.before > 0, layer.name
        assert layer.ms_after is not None, layer.name
    assert record.macs is not None
    assert sum(layer.macs.after for layer in record.layers if layer.macs) == record.macs.after == record.macs.before


METRIC = MetricFigures(name="accuracy", unit="share", split="test", n=100, before=0.98, after=0.97, drop=0.01)
LATENCY = Latency(
    runtime="onnxruntime", threads=1, batch=1, before_ms=Percentiles(p10=4.0, p50=4.2), after_ms=Percentiles(p10=2.0, p50=2.1),
    ratio=2.0, runs=200, cpu="any",
)  # fmt: skip


def test_each_limit_is_held_to_the_test_split_and_the_files():
    limits = Limits(max_drop=0.01, max_size=900, max_latency=0.001, max_time=60)
    found = {limit.name: (limit.limit, limit.measured, limit.met) for limit in _limits(limits, METRIC, 1000, LATENCY, 61.0)}
    assert found == {
        "max_drop": (0.01, 0.01, True),
        "max_size": (900, 1000, False),
        "max_latency": (1.0, 2.0, False),  # milliseconds
        "max_time": (60, 61.0, True),  # it ends the search, and is no property of the result
    }


def test_limits_that_were_not_given_are_not_there():
    assert list(_limits(Limits(), METRIC, 1000, LATENCY, 1.0)) == []
    (size,) = _limits(Limits(max_size=10), METRIC, None, LATENCY, 1.0)
    assert not size.met


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_drop", "lost 0.40 % on validation, which may be 1.06 %; 0.50 % allowed"),
        ("max_size", "12,345 bytes, 10,000 allowed"),
        ("max_latency", "2.500 ms, 1.000 ms allowed"),
    ],
)
def test_what_a_candidate_has_too_much_of(name, told):
    outcome = Outcome(name="a", drop=0.004, standard_error=0.004, archive=12345, latency=0.0025)
    assert _exceeds(name, outcome, Limits(max_drop=0.005, max_size=10_000, max_latency=0.001), "archive") == told
