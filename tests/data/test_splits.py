import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissom.data import Arrays, Data
from lissom.errors import DataRefused

checked = settings(deadline=None, derandomize=True, max_examples=60)
counts, seeds = st.integers(5, 3000), st.integers(0, 2**32)


def numbered(count, start=0):
    return Arrays((np.arange(start, start + count, dtype=np.int64),))


def values(split):
    return [int(value) for inputs, _ in split.batches(64) for value in inputs[0]]


@checked
@given(counts, seeds)
def test_the_splits_are_disjoint_and_cover_every_sample(count, seed):
    data = Data.of(numbered(count), seed=seed)
    parts = [values(part) for part in (data.train, data.validation, data.test)]
    assert sorted(itertools.chain(*parts)) == list(range(count))
    assert all(parts)
    assert len(data.train) >= len(data.validation) == len(data.test) == max(1, count // 5)


@checked
@given(counts, seeds)
def test_calibration_is_up_to_512_samples_of_the_training_split(count, seed):
    data = Data.of(numbered(count), seed=seed)
    assert set(values(data.calibration)) <= set(values(data.train))
    assert len(data.calibration) == min(512, len(data.train))


@checked
@given(counts, seeds)
def test_the_splits_are_the_same_for_the_same_seed(count, seed):
    one, two = Data.of(numbered(count), seed=seed), Data.of(numbered(count), seed=seed)
    assert [values(part) for part in one.splits()] == [values(part) for part in two.splits()]


def test_another_seed_gives_other_splits():
    assert values(Data.of(numbered(100), seed=0).test) != values(Data.of(numbered(100), seed=1).test)


@checked
@given(counts, st.integers(1, 50), st.integers(1, 50), st.booleans(), st.booleans())
def test_given_splits_are_kept_whole(count, tests, validations, give_test, give_validation):
    test = numbered(tests, 10_000) if give_test else None
    validation = numbered(validations, 20_000) if give_validation else None
    data = Data.of(numbered(count), test=test, validation=validation)
    if give_test:
        assert values(data.test) == list(range(10_000, 10_000 + tests))
    if give_validation:
        assert values(data.validation) == list(range(20_000, 20_000 + validations))
    own = [value for part in (data.train, data.validation, data.test) for value in values(part) if value < 10_000]
    assert sorted(own) == list(range(count))


@checked
@given(counts, st.integers(1, 500), seeds)
def test_batches_give_each_sample_once_in_any_order(count, size, seed):
    train = Data.of(numbered(count)).train
    batches = [inputs[0].tolist() for inputs, _ in train.batches(size, seed=seed)]
    assert all(len(batch) == size for batch in batches[:-1])
    assert sorted(itertools.chain(*batches)) == values(train)
    assert batches == [inputs[0].tolist() for inputs, _ in train.batches(size, seed=seed)]


def test_labels_stay_with_their_samples():
    x = np.arange(100)
    data = Data.of(Arrays((x,), x * 7))
    for inputs, targets in data.train.batches(9, seed=3):
        assert targets.tolist() == (inputs[0] * 7).tolist()


@pytest.mark.parametrize("count", range(5))
def test_too_few_samples_are_refused_with_their_number(count):
    with pytest.raises(DataRefused, match=f"{count} samples: at least 5"):
        Data.of(numbered(count))


def test_an_empty_given_split_is_refused():
    with pytest.raises(DataRefused, match="the test split is empty: give at least one"):
        Data.of(numbered(10), test=numbered(0))


def test_the_task_follows_from_the_targets():
    x = np.zeros(10, np.float32)
    tasks = {None: "imitate", np.int64: "classify", np.uint8: "classify", np.float64: "regress"}
    for kind, task in tasks.items():
        data = Data.of(Arrays((x,), None if kind is None else np.zeros(10, kind)))
        assert data.task == task
        assert data.labelled == (kind is not None)


def test_data_is_a_value():
    data = Data.of(numbered(10))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.task = "classify"
