"""Evidence: what is said of candidates that do not pay, and layers as the file that ships stores them."""

import numpy as np
import torch
from torch import nn

import lissom
from lissom.evidence import _no_faster, _what_did_not_pay
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
