"""Blocks have the layer's inputs and outputs, compute the one kernel that they amount to, and fit data better than weights do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom.calibrate.moments import collect
from lissom.errors import ModelRefused
from lissom.factorize.fit import fit, target_of, weighted_rows
from lissom.factorize.ranks import bayesian_rank, full, macs_of, parameters_of, sizes_by_energy, sizes_by_estimate, sizes_for
from lissom.graph.blocks import block, kernel_of, replaceable
from lissom.graph.structure import apply_structure, structure_from_json, structure_to_json
from lissom.network import Replace

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 10), (7, 12)),
    "linear without bias": (nn.Linear(12, 10, bias=False), (12,)),
    "conv": (nn.Conv2d(6, 8, 3, padding=1), (6, 9, 9)),
    "strided": (nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), (6, 9, 11)),
    "dilated": (nn.Conv2d(6, 8, 3, padding=2, dilation=2), (6, 9, 9)),
    "pointwise": (nn.Conv2d(6, 8, 1), (6, 5, 5)),
    "conv1d": (nn.Conv1d(6, 8, 5, stride=2, padding=2), (6, 21)),
}
METHODS = {"channel": (3,), "spatial": (5,), "tucker": (3, 4), "cp": (7,), "grouped": (3, 9)}
PAIRS = [(kind, method) for kind in LAYERS for method in METHODS if not replaceable(LAYERS[kind][0], method)]


def example(kind: str, samples: int = 64) -> Tensor:
    """Inputs whose channels are unlike each other and not centred, as real ones are."""
    random = np.random.default_rng(5)
    shape = LAYERS[kind][1]
    plain = random.normal(size=(samples, *shape)).astype(np.float32)
    axis = 1 if LAYERS[kind][0].weight.ndim > 2 else plain.ndim - 1
    scale = np.geomspace(0.05, 4, plain.shape[axis]).reshape([-1 if each == axis else 1 for each in range(plain.ndim)])
    return torch.from_numpy((plain * scale + 0.5 * scale).astype(np.float32))


def one_kernel(layer: nn.Module, kernel: Tensor, bias: Tensor) -> nn.Module:
    whole = copy.deepcopy(layer)
    whole.weight = nn.Parameter(kernel.detach().reshape(layer.weight.shape))
    whole.bias = nn.Parameter(bias.detach())
    return whole


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_a_block_computes_its_kernel(kind: str, method: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind][0]
    made = block(layer, method, METHODS[method])
    inputs = example(kind)
    with torch.no_grad():
        expected = one_kernel(layer, kernel_of(made, method), made[-1].bias)(inputs)
        torch.testing.assert_close(made(inputs), expected, rtol=1e-4, atol=1e-4)
    assert made(inputs).shape == layer(inputs).shape
    assert parameters_of(layer, method, METHODS[method]) == sum(each.numel() for each in made.parameters())


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_fitting_data_beats_fitting_weights_on_that_data(kind: str, method: str) -> None:
    layer = LAYERS[kind][0]
    network, inputs = nn.Sequential(layer).eval(), example(kind)
    moments = collect(network, network, "0", [(inputs,)])
    assert moments is not None
    plain, _ = fit(layer, method, METHODS[method], target_of(layer))
    aware, error = fit(layer, method, METHODS[method], target_of(layer, moments))
    with torch.no_grad():
        wanted = layer(inputs)
        missed = [float((made(inputs) - wanted).square().mean()) for made in (plain, aware)]
    assert missed[1] < missed[0]
    assert 0 <= error < 1


def test_full_rank_is_exact() -> None:
    for kind, method in PAIRS:
        if method in ("channel", "spatial", "tucker"):
            layer, inputs = LAYERS[kind][0], example(kind, 4)
            made, error = fit(layer, method, full(layer, method), target_of(layer))
            torch.testing.assert_close(made(inputs), layer(inputs), rtol=1e-3, atol=1e-3)
            assert error < 1e-9


def test_the_error_is_that_of_the_outputs() -> None:
    """The error that is told is the missed share of the outputs' variance, but for the small ridge and the positions drawn."""
    layer, inputs = LAYERS["linear"][0], example("linear")
    network = nn.Sequential(layer)
    moments = collect(network, network, "0", [(inputs,)])
    made, error = fit(layer, "channel", (3,), target_of(layer, moments))
    with torch.no_grad():
        wanted = layer(inputs).flatten(0, 1)
        missed = (made(inputs).flatten(0, 1) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    assert float(missed) == pytest.approx(error, rel=0.2)


def test_rows_that_are_read_more_are_kept_better() -> None:
    torch.manual_seed(0)
    layer = nn.Embedding(40, 12)
    counts = torch.zeros(40)
    counts[:5] = 1000
    made, _ = fit(layer, "channel", (4,), weighted_rows(layer, counts))
    with torch.no_grad():
        missed = (made(torch.arange(40)) - layer.weight).square().mean(1)
    assert float(missed[:5].mean()) < 0.05 * float(missed[5:].mean())


@given(st.integers(2, 30), st.integers(2, 30), st.floats(0.05, 0.95))
def test_a_ratio_is_kept(width: int, units: int, ratio: float) -> None:
    layer = nn.Linear(width, units)
    sizes = sizes_for(layer, "channel", ratio)
    made = parameters_of(layer, "channel", sizes) - units
    assert sizes == (1,) or made <= ratio * width * units
    if sizes != full(layer, "channel"):
        assert parameters_of(layer, "channel", (sizes[0] + 1,)) - units > ratio * width * units


def test_energy_and_the_bayesian_estimate_find_a_planted_rank() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(60, 40)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(40, 6) @ torch.randn(6, 60) + 0.3 * torch.randn(40, 60))
    assert sizes_by_estimate(layer, "channel", target_of(layer)) == (6,)
    energetic = sizes_by_energy(layer, "channel", target_of(layer), 0.9)
    assert energetic <= (6,)
    assert bayesian_rank(np.random.default_rng(0).normal(size=(30, 50))) == 0


def test_macs_follow_the_sizes() -> None:
    layer = nn.Conv2d(6, 8, 3, padding=1)
    assert macs_of(nn.Sequential(layer), torch.zeros(2, 6, 10, 10)) == 6 * 8 * 9 * 100
    assert macs_of(block(layer, "tucker", (2, 3)), torch.zeros(2, 6, 10, 10)) == (6 * 2 + 2 * 3 * 9 + 3 * 8) * 100


@pytest.mark.parametrize(
    ("layer", "method", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "channel", "grouped"),
        (nn.Conv2d(4, 4, 1), "spatial", "kernel of k x k"),
        (nn.Linear(4, 4), "tucker", "kernel of k"),
        (nn.ConvTranspose2d(4, 4, 3), "channel", "ConvTranspose2d"),
        (nn.Conv2d(4, 4, 3, padding="same"), "channel", "'same'"),
        (nn.Conv2d(4, 4, 3, padding_mode="circular", padding=1), "channel", "circular"),
        (nn.Embedding(4, 4, max_norm=1.0), "channel", "rescaled"),
        (nn.Linear(4, 4), "magic", "there is channel"),
        (nn.Conv2d(4, 4, 3), "grouped", "cannot be cut into 3 groups"),
    ],
)
def test_what_no_block_can_replace_is_refused_and_says_why(layer: nn.Module, method: str, why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        block(layer, method, (3, 4) if method == "grouped" else (1,))


def test_the_edit_makes_room_in_the_users_class() -> None:
    edit = Replace("0", "tucker", (2, 3))
    assert structure_from_json(structure_to_json([edit])) == (edit,)
    module = apply_structure(nn.Sequential(nn.Conv2d(4, 5, 3)), [edit])
    assert [tuple(each.weight.shape) for each in module[0]] == [(2, 4, 1, 1), (3, 2, 3, 3), (5, 3, 1, 1)]
