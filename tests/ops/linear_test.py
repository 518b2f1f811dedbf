import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops.linear import linear
from keras_comet.ops.linear import linear_at
from tests.helpers import rows


@pytest.mark.parametrize("leading", [(3,), (2, 3), (0,), (2, 0)])
def test_linear_is_the_sum_over_features(leading):
    x = rows(*leading, 4)
    kernel, bias = rows(4, 2, 3, seed=1), rows(2, 3, seed=2)
    expected = np.einsum("...d,dku->...ku", x, kernel) + bias
    found = linear(tf.constant(x), tf.constant(kernel), tf.constant(bias))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_linear_without_bias_and_without_units():
    x = tf.constant(rows(3, 4))
    np.testing.assert_allclose(linear(x, tf.eye(4)), x, atol=1e-6)
    assert linear(x, tf.zeros([4, 2, 0])).shape == (3, 2, 0)


def test_no_outputs_in_a_graph_do_not_abort_the_process():
    # As a product fused with its bias, oneDNN would.
    @tf.function
    def no_outputs(inputs, kernel, bias):
        return tf.reduce_prod(linear(inputs, kernel, bias), axis=-1)

    outputs = no_outputs(tf.ones([3, 4]), tf.zeros([4, 2, 0]), tf.zeros([2, 0]))
    np.testing.assert_array_equal(outputs, np.ones((3, 2)))


@pytest.mark.parametrize("leading", [(3,), (2, 3), (0,)])
def test_linear_at_computes_the_maps_that_are_asked_for(leading):
    x = rows(*leading, 4)
    kernel, bias = rows(4, 2, 5, seed=1), rows(2, 5, seed=2)
    everything = np.einsum("...d,dku->...ku", x, kernel) + bias
    indices = np.random.default_rng(0).integers(0, 5, (*leading, 2))
    found = linear_at(tf.constant(x), tf.constant(kernel), tf.constant(bias))(
        tf.constant(indices)
    )
    np.testing.assert_allclose(
        found,
        np.take_along_axis(everything, indices[..., np.newaxis], -1)[..., 0],
        atol=1e-5,
    )
