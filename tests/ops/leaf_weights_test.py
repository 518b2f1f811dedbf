import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops import leaf_weights
from tests.helpers import gradients


def softmax(logits, reach):
    weights = leaf_weights(logits, reach)
    return weights / tf.reduce_sum(weights, axis=[-2, -1], keepdims=True)


def test_is_the_softmax_over_all_leaves_weighted_by_reach():
    random = np.random.default_rng(0)
    logits = random.normal(size=(5, 3, 4)).astype("float32")
    reach = random.dirichlet(np.ones(4), (5, 3)).astype("float32")
    weighted = reach * np.exp(logits.astype("float64"))
    expected = weighted / weighted.sum(axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(
        softmax(tf.constant(logits), tf.constant(reach)),
        expected,
        atol=1e-6,
    )


def test_large_logit_of_an_unreached_leaf_is_harmless():
    logits = tf.constant([[[1e30, 0.0, -1e30]]])
    reach = tf.constant([[[0.0, 0.5, 0.5]]])
    weights, (from_logits, from_reach) = gradients(
        lambda: softmax(logits, reach)[..., 1:2], [logits, reach]
    )
    np.testing.assert_array_equal(weights, [[[1.0]]])
    assert np.isfinite(from_logits).all()
    assert np.isfinite(from_reach).all()


def test_unreached_leaf_weighs_exactly_zero():
    weights = leaf_weights(
        tf.constant([[[3.0, 2.0], [1.0, 0.0]]]),
        tf.constant([[[1.0, 0.0], [0.0, 1.0]]]),
    )
    np.testing.assert_array_equal(weights.numpy() == 0.0, [[[0, 1], [1, 0]]])


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_constant_on_all_logits_changes_nothing(shift):
    logits = tf.constant([[[0.0, 1.0], [2.0, 3.0]]])
    reach = tf.fill([1, 2, 2], 0.5)
    np.testing.assert_allclose(
        softmax(logits + shift, reach),
        softmax(logits, reach),
        # 1e4 in float32 keeps three digits after the point.
        atol=1e-3,
    )


def test_gradients_are_those_of_the_softmax():
    # d g_i / d a_j = g_i (1[i = j] - g_j), and d g_i / d v_j that over v_j.
    random = np.random.default_rng(1)
    logits = tf.constant(random.normal(size=(1, 2, 3)), tf.float32)
    reach = tf.constant(random.dirichlet(np.ones(3), (1, 2)), tf.float32)
    weights = softmax(logits, reach).numpy().reshape(-1)
    for index in range(6):
        _, found = gradients(
            lambda index=index: tf.reshape(softmax(logits, reach), [-1])[index],
            [logits, reach],
        )
        expected = weights[index] * (np.eye(6)[index] - weights)
        np.testing.assert_allclose(
            tf.reshape(found[0], [-1]), expected, atol=1e-6
        )
        np.testing.assert_allclose(
            tf.reshape(found[1], [-1]),
            expected / reach.numpy().reshape(-1),
            rtol=1e-4,
            atol=1e-6,
        )
