import numpy as np
import tensorflow as tf

from keras_comet.regularizers import z_loss


def test_z_loss_is_the_mean_of_squared_log_sums():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    expected = np.square(np.log(np.exp(logits).sum(axis=1))).mean()
    found = z_loss(tf.constant(logits, tf.float32))
    assert found.shape == ()
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_z_loss_of_large_logits_is_finite():
    np.testing.assert_allclose(z_loss(tf.fill([2, 1], 1e4)), 1e8, rtol=1e-5)
