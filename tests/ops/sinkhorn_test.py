import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import sinkhorn
from tests.helpers import rows


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_normalizes_rows_then_columns(iterations):
    logits = rows(2, 4, 4)
    expected = np.exp(logits.astype("float64") / 0.5)
    for _ in range(iterations):
        expected /= expected.sum(-1, keepdims=True)
        expected /= expected.sum(-2, keepdims=True)
    np.testing.assert_allclose(
        sinkhorn(tf.constant(logits), 0.5, iterations), expected, atol=1e-6
    )


def test_many_iterations_give_a_doubly_stochastic_matrix():
    matrix = sinkhorn(tf.constant(rows(5, 5)), 1.0, 100).numpy()
    np.testing.assert_allclose(matrix.sum(0), 1.0, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-5)


def test_a_low_temperature_finds_the_best_permutation():
    logits = rows(4, 4)
    best = max(
        itertools.permutations(range(4)),
        key=lambda order: logits[np.arange(4), order].sum(),
    )
    matrix = sinkhorn(tf.constant(logits), 0.01, 500).numpy()
    assert np.isfinite(matrix).all()
    # Rows converge slowly when the temperature is low, as 1 / iterations.
    np.testing.assert_allclose(matrix, np.eye(4)[list(best)], atol=1e-2)


def test_no_iterations_are_refused():
    with pytest.raises(ValueError, match="num_iterations=0"):
        sinkhorn(tf.zeros([2, 2]), 1.0, 0)
