import numpy as np

from benchmarks import workloads


def test_balanced_weights_use_all_experts_alike():
    weights = workloads.balanced_weights(4096, 8, 2)
    np.testing.assert_array_equal(np.count_nonzero(weights, axis=1), 2)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=0, atol=1e-6)
    # 1024 rows each, give or take five standard deviations.
    assert abs(np.count_nonzero(weights, axis=0) - 1024).max() < 140


def test_skewed_weights_give_two_experts_sixty_percent_of_equal_pairs():
    weights = workloads.skewed_weights(4096, 8)
    np.testing.assert_array_equal(np.count_nonzero(weights, axis=1), 2)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=0, atol=1e-6)
    pairs = np.count_nonzero(weights, axis=0)
    assert abs(pairs[:2].sum() / pairs.sum() - 0.6) < 0.03
    assert pairs.min() > 0


def test_pairs_of_several_gates_count_once():
    first = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    second = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    assert workloads.count_pairs([first, second]) == 4
