import itertools

import numpy as np
import pytest

from keras_comet import tuning
from keras_comet.tuning.expected_best import resample_expected_best


def best_of_all_subsets(validation, test):
    """E(m) by drawing every subset, ties broken in every order."""
    validation = np.where(np.isnan(validation), np.inf, validation)
    means = []
    for m in range(1, len(test) + 1):
        chosen = []
        for subset in itertools.combinations(range(len(test)), m):
            smallest = min(validation[i] for i in subset)
            best = [test[i] for i in subset if validation[i] == smallest]
            chosen.append(np.mean(best))
        means.append(np.mean(chosen))
    return means


@pytest.mark.parametrize(
    "validation",
    [
        [0.4, 0.1, 0.9, 0.3, 0.2, 0.8],
        [0.4, np.nan, 0.9, 0.3, np.inf, 0.8],
        [0.4],
    ],
)
def test_expected_best_is_the_mean_over_all_subsets(validation):
    test = np.random.default_rng(0).normal(size=len(validation))
    np.testing.assert_allclose(
        tuning.expected_best(validation, test),
        best_of_all_subsets(validation, test),
        rtol=1e-12,
    )


def test_trials_of_equal_validation_loss_are_chosen_equally_often():
    # Of the three pairs one is a tie, and two are won by the first trials.
    result = tuning.expected_best([0.1, 0.1, 0.2], [1.0, 9.0, 4.0])
    np.testing.assert_allclose(
        result, [14 / 3, (5 + 1 + 9) / 3, 5.0], rtol=1e-12
    )


def test_the_validation_losses_alone_choose():
    validation = [0.3, 0.2, 0.1]
    assert tuning.expected_best(validation, [0.0, 0.0, 7.0])[-1] == 7.0


def test_many_trials_are_exact():
    # C(2000, m) is no float. The best of all but one is the second at 1/N.
    test = np.zeros(2000)
    test[1] = 1.0
    result = tuning.expected_best(np.arange(2000), test)
    assert result[-2] == pytest.approx(1 / 2000, rel=1e-9)
    assert result[-1] == 0.0


def test_resampled_trials_are_drawn_as_often_and_stay_paired():
    validation, test = np.arange(50.0), np.arange(50.0)
    draws = resample_expected_best(validation, test, num_resamples=400)
    # E(1) is the mean of a sample: its spread is that of a mean of 50.
    assert draws[:, 0].mean() == pytest.approx(24.5, abs=0.5)
    assert draws[:, 0].std() == pytest.approx(
        test.std() / np.sqrt(50), rel=0.15
    )
    other = resample_expected_best(validation, test + 3.0, num_resamples=400)
    np.testing.assert_allclose(other - draws, 3.0)


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        ([], [], "at least one trial"),
        ([[0.1]], [[0.1]], "at least one trial"),
        ([0.1, 0.2], [0.1], r"shapes \(2,\) and \(1,\)"),
        ([0.1, 0.2], [0.1, np.nan], "finite test losses.*nan.*1"),
    ],
)
def test_bad_trials_raise(validation, test, message):
    with pytest.raises(ValueError, match=message):
        tuning.expected_best(validation, test)
