import numpy as np
import tensorflow as tf

from keras_comet.regularizers import entropy


def test_entropy_is_the_mean_over_the_batch_of_sums_over_selectors():
    v = np.random.default_rng(0).dirichlet(np.ones(4), (5, 3))
    expected = -(v * np.log(v + 1e-6)).sum(axis=(1, 2)).mean()
    found = entropy(tf.constant(v, tf.float32))
    assert found.shape == ()
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_settled_selectors_have_none():
    v = tf.one_hot([[0, 2], [1, 1]], 4)
    np.testing.assert_allclose(entropy(v), 0.0, atol=1e-5)


def test_undecided_selectors_have_log_n_each():
    v = tf.fill([7, 2, 4], 0.25)
    np.testing.assert_allclose(entropy(v), 2 * np.log(4), rtol=1e-4)
