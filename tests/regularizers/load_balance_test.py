import numpy as np
import tensorflow as tf

from keras_comet.regularizers import load_balance


def test_load_balance_is_the_squared_variation_of_usage():
    g = np.random.default_rng(0).dirichlet(np.ones(4), 6)
    usage = g.mean(axis=0)
    expected = usage.var() / usage.mean() ** 2
    found = load_balance(tf.constant(g, tf.float32))
    assert found.shape == ()
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_even_use_costs_nothing_and_one_expert_n_minus_one():
    np.testing.assert_allclose(load_balance(tf.eye(5)), 0.0, atol=1e-6)
    one = tf.one_hot([3] * 8, 5)
    np.testing.assert_allclose(load_balance(one), 4.0, rtol=1e-6)


def test_tokens_count_like_rows():
    g = tf.constant(np.random.default_rng(0).dirichlet(np.ones(4), (2, 3)))
    np.testing.assert_allclose(
        load_balance(g), load_balance(tf.reshape(g, [6, 4])), rtol=1e-6
    )
