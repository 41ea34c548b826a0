import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from lissom.data import Arrays, Data
from lissom.errors import DataRefused, UsageError
from lissom.measure.metrics import (
    Measured,
    Metric,
    accuracy,
    agreement,
    as_metric,
    default_metric,
    divergence,
    measure,
    scores_of,
    squared_error,
)

checked = settings(deadline=None, derandomize=True, max_examples=60)
scores = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(0, 1))
logits = hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(2, 6)), elements=st.floats(-8, 8, width=32))


def measured(values, metric=accuracy):
    return Measured(metric, "test", np.asarray(values, np.float64))


@checked
@given(scores, st.randoms(use_true_random=False))
def test_a_drop_is_antisymmetric_and_nothing_is_lost_to_itself(before, random):
    after = np.array([random.random() for _ in before])
    there, back = measured(before).drop_to(measured(after)), measured(after).drop_to(measured(before))
    assert there.value == pytest.approx(-back.value)
    assert there.standard_error == pytest.approx(back.standard_error)
    same = measured(before).drop_to(measured(before))
    assert (same.value, same.standard_error) == (0, 0)


@checked
@given(scores, st.integers(2, 5))
def test_the_standard_error_is_that_of_the_paired_differences(before, repeats):
    after = np.roll(before, 1)
    error = measured(before).drop_to(measured(after)).standard_error
    assert error == pytest.approx(np.std(before - after, ddof=1) / np.sqrt(len(before)))
    many = measured(np.tile(before, repeats)).drop_to(measured(np.tile(after, repeats))).standard_error
    assert many <= error + 1e-12  # more of the same data decides more


def test_the_drop_of_an_error_is_its_relative_increase():
    drop = measured([1.0, 3.0], squared_error).drop_to(measured([2.0, 3.0], squared_error))
    assert drop.value == pytest.approx(0.25)  # from 2 to 2.5


def test_a_limit_is_undecided_where_the_error_is_over_half_of_it():
    drop = measured([1, 1, 1, 1, 0]).drop_to(measured([1, 1, 1, 0, 0]))
    assert drop.value == pytest.approx(0.2)
    assert drop.undecided(0.3)
    assert not drop.undecided(0.5)


def test_one_sample_decides_nothing():
    assert measured([1.0]).drop_to(measured([1.0])).undecided(0.5)


@checked
@given(logits)
def test_agreement_with_oneself_is_one_and_divergence_zero(values):
    outputs = (torch.from_numpy(values),)
    assert agreement.score(outputs, outputs).tolist() == [1.0] * len(values)
    assert divergence(outputs, outputs, "classify").abs().max() < 1e-12
    assert divergence(outputs, outputs, "regress").abs().max() < 1e-12


@checked
@given(logits, st.integers(0, 2**31))
def test_divergence_is_never_negative_and_blind_to_a_shift_of_all_logits(values, seed):
    ours = torch.from_numpy(values)
    theirs = torch.randn(ours.shape, generator=torch.Generator().manual_seed(seed))
    found = divergence((ours,), (theirs,), "classify")
    assert (found >= 0).all()
    assert torch.allclose(found, divergence((ours + 3,), (theirs,), "classify"), atol=1e-4)
    expected = F.kl_div(
        F.log_softmax(ours.double(), 1), F.log_softmax(theirs.double(), 1), log_target=True, reduction="none"
    ).sum(1)
    assert torch.allclose(found, expected, atol=1e-9)


def test_probabilities_are_not_taken_for_logits():
    ours, theirs = torch.tensor([[0.7, 0.3]]), torch.tensor([[0.9, 0.1]])
    expected = 0.9 * np.log(0.9 / 0.7) + 0.1 * np.log(0.1 / 0.3)
    assert divergence((ours,), (theirs,), "classify").item() == pytest.approx(expected, abs=1e-6)


def test_accuracy_of_a_picture_is_the_share_of_its_pixels():
    outputs = torch.tensor([[[0.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]]).transpose(0, 1)  # one sample, two classes, three pixels
    assert accuracy.score((outputs,), torch.tensor([[1, 1, 0]])).tolist() == [pytest.approx(2 / 3)]


def test_a_network_that_answers_nan_is_never_right():
    broken = torch.tensor([[float("nan"), 0.0], [0.0, 1.0]])
    assert accuracy.score((broken,), torch.tensor([0, 1])).tolist() == [0.0, 1.0]
    assert agreement.score((broken,), (torch.tensor([[1.0, 0.0], [0.0, 1.0]]),)).tolist() == [0.0, 1.0]


def unlabelled(task="imitate"):
    data = Data.of(Arrays((np.linspace(1, 2, 20, dtype=np.float32)[:, None],)))
    return Data(data.train, data.calibration, data.validation, data.test, task)


def test_the_metric_follows_from_the_labels():
    x = np.zeros((20, 2), np.float32)
    assert default_metric(Data.of(Arrays((x,), np.zeros(20, np.int64)))) is accuracy
    assert default_metric(Data.of(Arrays((x,), np.zeros(20, np.float32)))) is squared_error
    assert default_metric(unlabelled("classify")) is agreement
    assert default_metric(unlabelled()).against_original


def test_agreement_of_one_number_sees_what_a_cosine_cannot():
    data = unlabelled()
    metric = default_metric(data)
    halved = measure(lambda x: (x / 2,), data.test, metric, original=lambda x: (x,))
    assert halved.value == pytest.approx(0.5)
    assert measure(lambda x: (x,), data.test, metric, original=lambda x: (x,)).value == 1.0


def test_equal_outputs_of_zeros_agree():
    zeros = (torch.zeros(3, 4),)
    assert default_metric(unlabelled()).score(zeros, zeros).tolist() == [1.0] * 3


def test_an_output_without_a_batch_is_left_out_of_the_cosine():
    state = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    outputs = (torch.ones(5, 4), state)
    assert default_metric(unlabelled()).score(outputs, (torch.ones(5, 4), -state)).tolist() == [1.0] * 5


def test_measure_covers_each_sample_of_the_split_once_whatever_the_batch():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    data = Data.of(Arrays((x,), (x[:, 0] > 0).astype(np.int64)))
    run = lambda inputs: (torch.stack([-inputs[:, 1], inputs[:, 1]], 1),)  # noqa: E731
    small, large = (measure(run, data.test, accuracy, batch_size=size) for size in (3, 1000))
    assert len(small.samples) == len(data.test)
    assert np.array_equal(small.samples, large.samples)
    numbers = data.test.numbers
    assert small.value == pytest.approx(((x[numbers, 1] > 0) == (x[numbers, 0] > 0)).mean())


def test_agreement_without_an_original_is_refused():
    with pytest.raises(UsageError, match="compares with the original"):
        measure(lambda x: (x,), unlabelled().test, agreement)


def test_a_score_for_the_batch_where_one_for_each_sample_is_due_is_refused():
    lump = Metric("lump", lambda outputs, targets: outputs[0].mean())
    with pytest.raises(UsageError, match=r"lump gives shape \[\] for 2 samples.*whole=True"):
        scores_of([(torch.ones(2, 3),)], [None], lump, "test")


def test_a_metric_of_a_whole_split_sees_all_of_it():
    largest = as_metric(lambda outputs, targets: (outputs - targets).abs().max())
    batches = [(torch.tensor([[1.0], [2.0]]),), (torch.tensor([[9.0]]),)]
    found = scores_of(batches, [torch.zeros(2, 1), torch.zeros(1, 1)], largest, "test")
    assert found.samples.tolist() == [9.0]


def test_a_score_of_nan_is_refused():
    with pytest.raises(DataRefused, match="squared error of 1 samples is NaN"):
        scores_of([(torch.tensor([[float("nan")], [1.0]]),)], [torch.zeros(2, 1)], squared_error, "test")
