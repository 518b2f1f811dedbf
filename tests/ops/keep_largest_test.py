import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import keep_largest
from tests.helpers import gradients


def reference(weights, count):
    """One row at a time."""
    kept = np.zeros_like(weights)
    for row, out in zip(
        weights.reshape(-1, weights.shape[-1]),
        kept.reshape(-1, weights.shape[-1]),
        strict=True,
    ):
        largest = sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]
        for index in largest:
            out[index] = row[index] / row[largest].sum()
    return kept


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9])
@pytest.mark.parametrize("jit_compile", [None, True])
def test_each_row_keeps_its_largest(count, jit_compile):
    weights = np.random.default_rng(0).dirichlet(np.ones(6) * 0.3, (3, 20))
    # Rows that are sparse already.
    weights[0] = np.where(weights[0] > 0.3, weights[0], 0.0)
    weights[0, :, 0] += 0.1
    keep = tf.function(keep_largest, jit_compile=jit_compile)
    found = keep(tf.constant(weights), tf.constant(count))
    np.testing.assert_allclose(found, reference(weights, count), atol=1e-12)


def test_of_equal_weights_no_more_are_kept_than_asked_for():
    weights = np.array([[0.25, 0.25, 0.25, 0.25], [0.4, 0.1, 0.4, 0.1]])
    np.testing.assert_array_equal(
        keep_largest(tf.constant(weights), 3),
        reference(weights, 3),
    )
    np.testing.assert_array_equal(
        keep_largest(tf.constant(weights), 2),
        [[0.5, 0.5, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0]],
    )


def test_gradient_is_that_of_the_weights_that_are_kept():
    weights = tf.constant([[0.1, 0.5, 0.4]], tf.float64)
    _, [found] = gradients(lambda: keep_largest(weights, 2)[0, 1], [weights])
    # Of y = b / (b + c).
    expected = [[0.0, 0.4 / 0.81, -0.5 / 0.81]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
