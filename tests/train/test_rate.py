"""Training against the file: the estimate is the code length of the levels, its slope what a level costs, its sum the archive."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lissom import edits
from lissom.codec import Quantized, encode
from lissom.errors import UsageError
from lissom.files import write_bytes
from lissom.grids import Codebook, LearntStep
from lissom.job import Job, step_from
from lissom.measure.metrics import measure
from lissom.network import Network
from lissom.quantize.weights import QuantizeWeights
from lissom.train.finetune import Finetune
from lissom.train.rate import Prior, Rate, RateTerm
from lissom.train.rate.choice import Choice

SHAPES = [(40,), (12, 9), (6, 4, 3, 3), (5, 1, 3, 3), (1, 7)]


def levels_of(shape: tuple[int, ...], seed: int, density: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randn(shape, generator=generator).mul(2).round()
    return torch.where(torch.rand(shape, generator=generator) < density, sizes, 0.0)


def wide(classes: int = 4) -> Network:
    return Network(nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, classes)), (torch.zeros(2, 12),))


def archive(network: Network) -> int:
    return len(encode(edits.tensors(network.module), effort="best"))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 999), density=st.sampled_from([0.0, 0.05, 0.4, 1.0]))
def test_the_slope_at_whole_levels_is_what_a_magnitude_costs(shape: tuple[int, ...], seed: int, density: float) -> None:
    levels = levels_of(shape, seed, density).requires_grad_()
    prior = Prior(shape)
    prior.fit(levels)
    bits = prior.bits(levels)
    assert bool(torch.isfinite(bits))
    assert float(bits.detach()) >= 0
    (slope,) = torch.autograd.grad(bits, levels)
    assert slope.shape == levels.shape
    assert bool((slope * levels >= 0).all())  # every pull is towards zero
    # One more in a magnitude changes no context and no other level: the slope is exactly that difference.
    large = levels.detach().abs() >= 1
    if bool(large.any()):
        place = tuple(int(index) for index in large.nonzero()[0])
        more = levels.detach().clone()
        more[place] += torch.sign(more[place])
        assert float(prior.bits(more) - bits.detach()) == pytest.approx(abs(float(slope[place])), rel=1e-3, abs=2e-3)


def test_the_estimate_is_the_ideal_code_length() -> None:
    """Independent levels cost their entropy: sign, geometric magnitude, and zero or not."""
    generator = torch.Generator().manual_seed(0)
    alive = torch.rand(200, 150, generator=generator) < 0.1
    sizes = torch.distributions.Geometric(0.6)
    torch.manual_seed(1)
    levels = torch.where(alive, (sizes.sample(alive.shape) + 1) * torch.sign(torch.randn(alive.shape)), 0.0)

    def entropy(*chances: float) -> float:
        return -sum(chance * math.log2(chance) for chance in chances)

    expected = levels.numel() * (entropy(0.1, 0.9) + 0.1 * (1 + entropy(0.6, 0.4) / 0.6))
    assert float(Prior((200, 150)).fitted(levels)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_dead_row_or_column_pulls_harder_than_an_alive_one(axis: int) -> None:
    levels = torch.zeros(30, 30)
    levels[::3, :20] = 1.0
    arranged = levels if axis == 0 else levels.T.contiguous()
    prior = Prior((30, 30))
    prior.fitted(arranged)
    latents = torch.where(arranged != 0, arranged, 0.1).requires_grad_()
    (slope,) = torch.autograd.grad(prior.bits(latents), latents)
    rows = slope if axis == 0 else slope.T
    assert float(rows[1, :20].mean()) > float(rows[0, 20:].mean()) + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_newton_finds_the_coefficients_that_cost_least(shape: tuple[int, ...]) -> None:
    levels = levels_of(shape, 3, 0.3)
    prior = Prior(shape)
    least = float(prior.fitted(levels, rounds=40))
    for index, change in itertools.product(np.flatnonzero(prior.used), (-0.05, 0.05)):
        moved = Prior(shape)
        moved.coefficients, moved.magnitude = prior.coefficients.copy(), prior.magnitude
        moved.coefficients[index] += change
        if index and moved.coefficients[index] < 0:
            continue
        assert float(moved.bits(levels)) >= least - 1e-3


def test_learnt_steps_decode_exactly_and_learn_their_scale() -> None:
    weight = torch.randn(6, 5, requires_grad=True)
    grid = LearntStep.fit(weight.detach(), resolution=2.0)
    values = grid(weight)
    levels = grid.levels(weight)
    assert values.detach().numpy().tobytes() == grid.decoding().decode(levels.numpy()).tobytes()
    assert not bool(torch.signbit(values[levels == 0]).any())
    factor = torch.randn(6, 5)
    (values * factor).sum().backward()
    assert torch.allclose(weight.grad, factor)
    assert float(grid.gain.grad) == pytest.approx(float((factor * levels * grid.unit).sum()), rel=1e-5)
    with pytest.raises(UsageError, match="above zero"):
        LearntStep(torch.tensor(0.0))


def test_smaller_at_the_same_accuracy_and_near_the_estimate(job: Job) -> None:
    before = wide()
    plain = Finetune(epochs=15, learning_rate=1e-2).apply(before, job)
    small = Finetune(epochs=40, learning_rate=1e-2, rate=Rate(weight=0.05)).apply(before, job)
    scores = [measure(network.outputs, job.data.test, job.metric).value for network in (plain, small)]
    assert archive(small) < archive(plain) / 8
    assert scores[1] > scores[0] - 0.03
    assert all(isinstance(tensor, Quantized) for tensor in edits.tensors(small.module).values())
    assert not any(parameter.grad is not None for parameter in before.module.parameters())


def test_the_estimate_follows_the_archive(job: Job) -> None:
    network = Finetune(epochs=10, learning_rate=1e-2, rate=0.05).apply(wide(), job)
    term = RateTerm(Rate(weight=0.05), network.module, 100)
    written = term.hold_to_archive()
    assert written == archive(network)
    assert term.bytes() == pytest.approx(written)


@pytest.mark.parametrize("size", [220, 400])
def test_arrives_at_the_size_that_is_asked_for(job: Job, size: int) -> None:
    rate = Rate(weight=0.02, max_size=size)
    network = Finetune(epochs=60, learning_rate=2e-2, rate=rate).apply(wide(), job)
    assert archive(network) == pytest.approx(size, rel=0.15)


def by_hand(module: nn.Module, job: Job) -> None:
    """A loop of one's own, which knows nothing of archives."""
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-2)
    for epoch in range(60):
        for inputs, targets in job.data.train.batches(64, seed=epoch):
            optimizer.zero_grad()
            job.loss((module(*inputs),), targets).backward()
            optimizer.step()


@pytest.mark.parametrize("size", [None, 300])
def test_a_loop_of_ones_own_trains_against_the_archive_too(job: Job, size: int | None) -> None:
    own = dataclasses.replace(job, train=by_hand)
    network = Finetune(epochs=60, rate=Rate(weight=0.05, max_size=size)).apply(wide(), own)
    plain = QuantizeWeights(bits=8).apply(Finetune(epochs=1).apply(wide(), own), own)
    assert archive(network) < 0.6 * archive(plain)
    if size is not None:
        assert archive(network) == pytest.approx(size, rel=0.15)
    assert f"{archive(network):,} bytes written" in network.notes[-1]
    before, after = (measure(each.outputs, job.data.validation, job.metric).value for each in (plain, network))
    assert after > before - 0.1
    assert not any(latent._post_accumulate_grad_hooks for latent in network.module.parameters())


def test_layers_weigh_as_they_are_told(job: Job) -> None:
    free = Finetune(epochs=10, learning_rate=3e-2, rate=Rate(weight=0.5, layers={"0*": 0.0})).apply(wide(), job)
    held = Finetune(epochs=10, learning_rate=3e-2, rate=Rate(weight=0.5)).apply(wide(), job)
    alive = [int((edits.value(network.module, "0.weight") != 0).sum()) for network in (free, held)]
    assert alive[0] > 1.5 * alive[1]


def test_masks_and_codebooks_stay(job: Job) -> None:
    network = edits.copy(wide())
    weight = edits.latent(network.module, "0.weight")
    mask = torch.rand_like(weight) > 0.5
    edits.attach(network.module, "0.weight", mask=mask)
    table = torch.tensor([-0.2, 0.0, 0.2])
    indices = (edits.latent(network.module, "2.weight").detach()[..., None] - table).abs().argmin(-1)
    edits.attach(network.module, "2.weight", grid=Codebook(table, indices))
    trained = Finetune(epochs=2, learning_rate=1e-2, rate=0.01).apply(network, job)
    assert not bool(edits.value(trained.module, "0.weight")[~mask].any())
    assert torch.equal(edits.edit_of(trained.module, "2.weight").grid.indices, indices.int())


class _Stop(Exception):
    pass


def test_resumes_to_the_same_bits(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Finetune(epochs=3, learning_rate=1e-2, rate=Rate(weight=0.05, max_size=500, hold=0.4))
    network = wide()

    def bits(trained: Network) -> list[bytes]:
        return [tensor.numpy().tobytes() for tensor in edits.state_dict(trained.module).values()]

    whole = bits(step.apply(network, job))

    def write_then_die(path: Path, data: bytes) -> None:
        write_bytes(path, data)
        raise _Stop

    resuming = dataclasses.replace(job, checkpoints=tmp_path)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("lissom.train.finetune.write_bytes", write_then_die)
            with pytest.raises(_Stop):
                step.apply(network, resuming)
    assert bits(step.apply(network, resuming)) == whole


def test_the_last_levels_stay_while_the_rest_trains_on(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []

    def keep(path: Path, data: bytes) -> None:
        write_bytes(path, data)
        states.append(torch.load(path, weights_only=True)["module"])

    monkeypatch.setattr("lissom.train.finetune.write_bytes", keep)
    step = Finetune(epochs=10, learning_rate=1e-2, rate=Rate(weight=0.05, hold=0.3))
    trained = step.apply(wide(), dataclasses.replace(job, checkpoints=tmp_path)).module
    weight, gain = "0.parametrizations.weight.original", "0.parametrizations.weight.0.grid.gain"
    bias = "0.parametrizations.bias.original"
    changed = [
        {name for name in (weight, gain, bias) if not torch.equal(states[number][name], states[9][name])} for number in (6, 7)
    ]
    assert changed == [{weight, gain, bias}, {gain, bias}]
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_the_last_choice_lowers_what_wandered_and_never_loses() -> None:
    """Least squares: levels one too high come back, and of moves that do not pay none is made."""
    torch.manual_seed(0)
    inputs, best = torch.randn(500, 6), torch.tensor([3.0, -1.0, 0.0, 2.0, 0.0, 1.0])
    weight = (best + torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])).requires_grad_()

    def loss() -> Tensor:
        return (inputs @ (weight - best)).square().mean() / 2

    fisher = {"w": inputs.square().mean(0)}
    choice = Choice({"w": weight}, {"w": 1.0})
    loss().backward()
    choice.watch()
    assert choice.make(fisher, lambda: float(loss())) == 2
    assert torch.equal(weight.detach(), best)
    weight.grad = 5 * best.sign()
    for _ in range(20):
        choice.watch()
    assert choice.lowered(fisher, 1.0)["w"].tolist() == [2.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert choice.make(fisher, lambda: float(loss())) == 0
    assert torch.equal(weight.detach(), best)


def test_a_number_stands_for_its_weight_and_bad_values_are_named() -> None:
    assert Finetune(epochs=1, rate=0.2) == Finetune(epochs=1, rate=Rate(weight=0.2))
    assert step_from({"Finetune": {"epochs": 1, "rate": {"max_size": 900}}}).rate == Rate(max_size=900)
    with pytest.raises(UsageError, match="weight"):
        Rate(weight=-1)
    with pytest.raises(UsageError, match="at least 0"):
        Rate(layers={"fc1": -1.0})
    with pytest.raises(UsageError, match="hold"):
        Rate(hold=0.6)
