import numpy as np
import pytest
import tensorflow as tf

from keras_comet.ops.binary_codes import code_probabilities
from tests import reference


@pytest.mark.parametrize("num_digits", [0, 1, 2, 3, 5])
def test_codes_have_the_product_of_their_digits(num_digits):
    digits = np.random.default_rng(num_digits).random((2, 3, num_digits))
    found = code_probabilities(tf.constant(digits))
    expected = [
        [reference.reach_codes(each, 2**num_digits) for each in row]
        for row in digits
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_saturated_digits_spell_one_code_most_significant_first():
    digits = tf.constant([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = np.argmax(code_probabilities(digits), axis=-1)
    np.testing.assert_array_equal(found, [0b110, 0b001])
