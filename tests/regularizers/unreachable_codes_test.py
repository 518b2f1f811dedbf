import numpy as np
import tensorflow as tf

from keras_comet.regularizers import unreachable_codes


def test_penalty_is_the_mean_over_the_batch_of_reciprocal_masses():
    mass = np.random.default_rng(0).random((5, 3))
    expected = (1.0 / (1e-6 + mass)).sum(axis=1).mean()
    found = unreachable_codes(tf.constant(mass, tf.float32))
    assert found.shape == ()
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_penalty_is_bounded_by_a_million_for_each_selector():
    np.testing.assert_allclose(
        unreachable_codes(tf.zeros([4, 3])), 3e6, rtol=1e-5
    )
