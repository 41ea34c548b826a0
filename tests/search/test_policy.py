"""Policy: what wins, what leaves room to go on, and how often luck on the validation split lets too much pass."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lissom
from lissom.measure.metrics import MARGIN
from lissom.prune.channels import PruneChannels
from lissom.recipe import Recipe
from lissom.search.bisection import Bisection
from lissom.search.limits import Limits
from lissom.search.policy import choose, first_candidates, knob, lighter_recipe, size_recipe, to_size, turn_further
from lissom.search.trial import Outcome


def outcome(name, drop=0.0, size=1000, error=0.0, **more):
    return Outcome(name=name, drop=drop, standard_error=error, archive=size, onnx=2 * size, weights=size - 10, **more)


def test_within_the_limit_the_smallest_wins():
    found = [outcome("big", size=900), outcome("small", 0.004, 100), outcome("lossy", 0.02, 50)]
    assert choose(found, Limits(max_drop=0.01), "size", "archive").name == "small"


def test_the_drop_keeps_its_margin_from_the_limit():
    found = [outcome("sure", size=900), outcome("lucky", 0.004, 100, error=0.005)]
    assert choose(found, Limits(max_drop=0.01), "size", "archive").name == "sure"
    assert found[1].largest_drop == pytest.approx(0.004 + MARGIN * 0.005)
    assert found[1].excess(Limits(max_drop=0.01), "archive") == {"max_drop": pytest.approx((found[1].largest_drop - 0.01) / 0.01)}


def test_where_no_candidate_is_within_the_closest_wins():
    found = [outcome("far", 0.05, 100), outcome("near", 0.02, 900)]
    assert choose(found, Limits(max_drop=0.01), "size", "archive").name == "near"
    assert choose(found, Limits(max_size=90), "size", "archive").name == "far"


def test_with_a_size_limit_alone_the_least_drop_within_it_wins():
    found = [outcome("tiny", 0.1, 10), outcome("fits", 0.03, 95), outcome("large", 0.0, 500)]
    assert choose(found, Limits(max_size=100), "size", "archive").name == "fits"


def test_the_file_that_ships_counts():
    found = [outcome("a", size=100), outcome("b", size=120)]
    found[0] = dataclasses.replace(found[0], onnx=900)
    assert choose(found, Limits(max_drop=0.01), "size", "archive").name == "a"
    assert choose(found, Limits(max_drop=0.01), "size", "onnx").name == "b"


def test_latency_is_minimised_where_it_is_the_goal():
    found = [outcome("float", size=10, latency=0.004, divergence=0.0), outcome("int8", size=20, latency=0.002, divergence=0.1)]
    assert choose(found, Limits(max_drop=0.01), "latency", "onnx").name == "int8"
    assert choose(found, Limits(max_drop=0.01, max_latency=0.001), "latency", "onnx").name == "int8"


def test_where_the_data_cannot_tell_the_least_divergence_of_those_alike_wins():
    found = [
        outcome("smaller", 0.0, 100, error=0.006, divergence=0.5),
        outcome("truer", 0.0, 105, error=0.006, divergence=0.1),
        outcome("truest", 0.0, 200, error=0.006, divergence=0.0),
    ]
    assert choose(found, Limits(max_drop=0.01), "size", "archive").name == "truer"
    sure = [dataclasses.replace(each, standard_error=0.001) for each in found]
    assert choose(sure, Limits(max_drop=0.01), "size", "archive").name == "smaller"


def test_refused_candidates_never_win():
    refused = Outcome(name="broken", refused_because="parity")
    assert choose([refused], Limits(max_drop=0.01), "size", "archive") is None
    assert choose([refused, outcome("made", 0.5)], Limits(max_drop=0.01), "size", "archive").name == "made"
    assert not turn_further(refused, Limits(max_drop=0.01), "archive")


def test_only_a_size_of_weights_is_trained_to(classifier, labelled):
    (aimed,) = to_size(Limits(max_size=4000), "weights", classifier, labelled).candidates
    assert 3600 < aimed.recipe.steps[0].rate.max_size < 4000
    assert aimed.recipe.steps[1] == PruneChannels(ratio=0)
    assert to_size(Limits(max_size=4000), "archive", classifier, labelled).candidates == ()
    assert to_size(Limits(max_drop=0.01), "weights", classifier, labelled).candidates == ()


def test_weights_that_ship_are_trained_to_their_size_and_lose_their_dead_channels(classifier, labelled, tmp_path, monkeypatch):
    monkeypatch.setattr("lissom.search.curve.TRAINING_SAMPLES", 6000)
    monkeypatch.setattr("lissom.search.policy.TRAINING_SAMPLES", {"size": 600})
    monkeypatch.setattr("lissom.search.policy.ROUNDS", 1)
    result = lissom.compress(classifier, labelled, out=tmp_path, max_size=260, max_drop=0.5, ship="weights")
    aimed = next(trial for trial in result.record.trials if trial.name == "trained to the size")
    assert not aimed.refused_because
    assert 130 < aimed.bytes <= 260
    assert result.record.shipped_bytes <= 260


def test_the_knob_turns_while_the_drop_allows_or_until_the_size_is_met():
    assert turn_further(outcome("a", 0.001), Limits(max_drop=0.01), "archive")
    assert not turn_further(outcome("a", 0.02), Limits(max_drop=0.01), "archive")
    assert turn_further(outcome("a", 0.5, 200), Limits(max_size=100), "archive")
    assert not turn_further(outcome("a", 0.5, 90), Limits(max_size=100), "archive")
    assert turn_further(outcome("a", 0.001, 90), Limits(max_drop=0.01, max_size=100), "archive")


def test_a_bit_costs_more_with_the_strength():
    weights = [size_recipe(float(strength), 3).steps[0].rate.weight for strength in np.linspace(0, 1, 9)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.001, 4.0)


def test_small_data_gets_more_epochs(classifier, labelled):
    recipe = knob("size", classifier, labelled, Limits()).ask().recipe
    assert recipe.steps[0].epochs == 20


@pytest.mark.parametrize("max_drop", [None, 0.02])
def test_whatever_is_trained_for_latency_ends_in_integers_that_keep_to_the_drop(classifier, labelled, max_drop):
    limits = Limits(max_drop=max_drop)
    trained = knob("latency", classifier, labelled, limits).ask().recipe
    lighter = lighter_recipe((), 1, "latency", limits)
    for recipe in (trained, lighter):
        if max_drop is None:
            assert recipe.deploy.precision == "int8"
        else:
            assert recipe.steps[-1] == lissom.QuantizeWithin(max_drop=max_drop)


@pytest.mark.parametrize("goal", ["size", "latency"])
def test_the_first_candidates_need_no_training(goal):
    for search in first_candidates(goal, Limits(max_drop=0.01)):
        while (candidate := search.ask()) is not None:
            assert "Finetune" not in candidate.recipe.in_words()
            search.tell(turn_further=False)


@pytest.mark.parametrize(("within", "tried"), [(True, ["int8 static"]), (False, ["int8 static", "int8 repaired"])])
def test_integers_are_repaired_only_where_they_lose_too_much(within, tried):
    _, search = first_candidates("latency", Limits(max_drop=0.02))
    found = []
    while (candidate := search.ask()) is not None:
        found.append(candidate)
        search.tell(turn_further=within)
    assert [candidate.name for candidate in found] == tried
    assert within or found[-1].recipe.steps == (lissom.QuantizeWithin(max_drop=0.02),)


LIMIT = 0.005


def simulated(random, samples, breaks_at, margin):
    """The true drop of the winner of one search, in which it rises with strength and meets the limit at ``breaks_at``."""

    def true_drop(strength):
        return LIMIT * np.exp(9 * (strength - breaks_at)) - LIMIT / 10

    search, found = Bisection(lambda _: Recipe(), rounds=4), [outcome("untrained", size=10**6)]
    limits = Limits(max_drop=LIMIT)
    while (candidate := search.ask()) is not None:
        drop = true_drop(search.strength)
        differ = abs(drop) + 0.004 + 0.01 * search.strength  # share of the samples that the two networks do not agree on
        worse, better, _ = random.multinomial(samples, [(differ + drop) / 2, (differ - drop) / 2, 1 - differ]) / samples
        error = np.sqrt((worse + better - (worse - better) ** 2) / samples) * margin / MARGIN
        found.append(outcome(candidate.name, worse - better, int(1e5 * (1 - search.strength)), error))
        search.tell(turn_further=turn_further(found[-1], limits, "archive"))
    name = choose(found, limits, "size", "archive").name
    return 0.0 if name == "untrained" else true_drop(float(name.split()[1]))


@pytest.mark.parametrize("samples", [500, 1500, 5000])
@pytest.mark.parametrize("breaks_at", [0.3, 0.5, 0.7, 0.9])
def test_the_winner_is_over_the_limit_in_at_most_one_run_of_twenty(samples, breaks_at):
    """What the margin is for: choosing among the candidates of a search included."""
    random = np.random.default_rng(samples)
    over = np.mean([simulated(random, samples, breaks_at, MARGIN) > LIMIT for _ in range(300)])
    assert over <= 0.05


def test_without_the_margin_the_lucky_one_wins():
    random = np.random.default_rng(0)
    over = [simulated(random, 1500, breaks_at, 0.0) > LIMIT for breaks_at in (0.3, 0.5, 0.7, 0.9) for _ in range(300)]
    assert np.mean(over) > 0.2
