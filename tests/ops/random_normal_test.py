import numpy as np
import tensorflow as tf

from keras_comet.ops.random_normal import random_normal


def test_numbers_are_standard_normal_and_depend_on_the_seed_alone():
    first, again, other = (
        random_normal([10_000], tf.constant(seed)).numpy()
        for seed in ([1, 2], [1, 2], [2, 2])
    )
    np.testing.assert_array_equal(first, again)
    # Five standard errors of the mean, the spread and the correlation.
    assert abs(first.mean()) < 0.05
    assert abs(first.std() - 1.0) < 0.05
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


def test_shape_may_be_a_tensor():
    numbers = random_normal(tf.constant([0, 3]), tf.constant([1, 2]))
    assert numbers.shape == (0, 3)
    assert numbers.dtype == tf.float32
