import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops.normalize import normalize
from tests.helpers import gradients

WEIGHTS = np.random.default_rng(0).uniform(0.1, 2.0, (2, 3, 4))


def test_rows_sum_to_one():
    found = normalize(tf.constant(WEIGHTS))
    np.testing.assert_allclose(
        found, WEIGHTS / WEIGHTS.sum(axis=-1, keepdims=True), rtol=1e-12
    )
    np.testing.assert_array_equal(
        normalize(tf.constant([[0.0, 3.7]])), [[0, 1]]
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_of_first_and_second_order(compiled):
    upstream = np.random.default_rng(1).normal(size=WEIGHTS.shape)

    def loss(function, weights):
        return lambda: tf.reduce_sum(upstream * function(weights) ** 2)

    def plain(weights):
        return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)

    def differentiate(function, weights):
        def squares():
            _, [found] = gradients(loss(function, weights), [weights])
            return tf.reduce_sum(found**2)

        _, [first] = gradients(loss(function, weights), [weights])
        _, [second] = gradients(squares, [weights])
        return first, second

    run = tf.function(differentiate) if compiled else differentiate
    weights = tf.constant(WEIGHTS)
    for ours, theirs in zip(
        run(normalize, weights), run(plain, weights), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_small_sums_have_finite_gradients():
    weights = tf.constant([[1e-30, 0.0, 2e-30]])
    _, [found] = gradients(lambda: normalize(weights)[..., 0], [weights])
    np.testing.assert_allclose(found, [[2e30 / 9, -1e30 / 9, -1e30 / 9]], 1e-5)
