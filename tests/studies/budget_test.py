import numpy as np
import pytest

from studies.budget import budget_ratio
from studies.budget import budget_to_reach


def test_budget_is_interpolated_between_trials():
    curve = np.array([1.0, 0.6, 0.4, 0.3])
    assert budget_to_reach(curve, 1.2) == 1.0
    assert budget_to_reach(curve, 0.6) == 2.0
    assert budget_to_reach(curve, 0.5) == pytest.approx(2.5)
    assert budget_to_reach(curve, 0.3) == 4.0


def test_an_arm_that_always_reaches_the_best_needs_one_trial():
    generator = np.random.default_rng(0)
    off = generator.permutation(np.arange(1.0, 21.0))
    ratio, low, high = budget_ratio((off, off), (0 * off + 1.0, 0 * off + 1.0))
    assert ratio == 20.0  # the best of 20 is certain with all of them
    assert 1.0 < low < high <= 20.0
    inverse, _, _ = budget_ratio((0 * off + 1.0, 0 * off + 1.0), (off, off))
    assert inverse == pytest.approx(1 / 20)


def test_equal_arms_need_as_many_trials():
    off = np.random.default_rng(0).normal(size=12)
    assert budget_ratio((off, off), (off, off)) == (1.0, 1.0, 1.0)
