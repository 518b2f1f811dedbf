import math

import numpy as np
import pytest

from keras_comet.gates.routing_tracker import RoutingTracker


def make_tracker(num_experts):
    tracker = RoutingTracker(num_experts)
    tracker.build()
    return tracker


def test_statistics_describe_the_recent_rows():
    tracker = make_tracker(4)
    # As after few batches, of which half the rows used 1, the others 3.
    tracker.recent_cardinality.assign(0.3 * np.array([0.5, 0.0, 0.5, 0.0]))
    tracker.recent_usage.assign(0.3 * np.array([0.5, 0.5, 0.0, 0.0]))
    statistics = tracker.statistics(cap=2)
    expected = {
        "cardinality": 2.0,
        "within_cap": 0.5,
        "excess": 0.5 * math.log(3 / 2) / math.log(4 / 2),
        "normalized_entropy": 0.5,
        "least_usage": 0.0,
    }
    assert set(statistics) == set(expected)
    for name, value in expected.items():
        assert statistics[name] == pytest.approx(value, abs=1e-6), name


def test_nothing_exceeds_a_cap_of_all_experts():
    tracker = make_tracker(3)
    tracker.recent_cardinality.assign([0.0, 0.0, 1.0])
    assert tracker.statistics(cap=3)["excess"] == 0.0
    assert tracker.statistics(cap=3)["within_cap"] == 1.0


def test_statistics_are_nan_before_the_first_batch():
    statistics = make_tracker(3).statistics(cap=2)
    assert all(math.isnan(value) for value in statistics.values())


def test_one_expert_is_used_evenly():
    tracker = make_tracker(1)
    tracker.update(np.ones((5, 1), "float32"))
    statistics = tracker.statistics(cap=1)
    assert statistics == {
        "cardinality": 1.0,
        "within_cap": 1.0,
        "excess": 0.0,
        "normalized_entropy": 1.0,
        "least_usage": 1.0,
    }


def test_averages_look_back_over_batches_of_any_rank():
    tracker = make_tracker(2)
    usage, shares = np.zeros(2), np.zeros(2)
    random = np.random.default_rng(0)
    for _ in range(4):
        weights = random.dirichlet([1.0, 1.0], size=(3, 5))
        weights[0] = [1.0, 0.0]
        tracker.update(weights.astype("float32"))
        usage = 0.9 * usage + 0.1 * weights.mean((0, 1))
        shares = 0.9 * shares + 0.1 * np.array([1 / 3, 2 / 3])
    np.testing.assert_allclose(tracker.recent_usage, usage, atol=1e-6)
    np.testing.assert_allclose(tracker.recent_cardinality, shares, atol=1e-6)


def test_empty_batch_and_rows_that_are_not_finite_count_nowhere():
    tracker = make_tracker(2)
    tracker.recent_usage.assign([1.0, 1.0])
    tracker.update(np.zeros((0, 2), "float32"))
    np.testing.assert_allclose(tracker.recent_usage, [0.9, 0.9], atol=1e-6)
    tracker.update(np.array([[np.nan, 0.0], [np.inf, 0.0]], "float32"))
    np.testing.assert_allclose(tracker.recent_usage, [0.81, 0.81], atol=1e-6)
    np.testing.assert_array_equal(tracker.recent_cardinality, np.zeros(2))
