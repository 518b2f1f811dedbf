import numpy as np
import pytest

import keras_comet
from keras_comet._keras import keras
from keras_comet.gates.initializers import as_matrix
from keras_comet.gates.initializers import small_logits


def test_initializer_sees_all_axes_but_the_first_as_one():
    # Glorot's limit is sqrt(6 / (inputs + outputs)) = sqrt(6 / (6 + 54)).
    values = as_matrix("glorot_uniform")((6, 3, 18))
    assert values.shape == (6, 3, 18)
    limit = np.sqrt(0.1)
    assert 0.95 * limit < np.abs(values).max() <= limit


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_small_logits_have_a_spread_of_a_fifth(scale):
    kernel = np.asarray(small_logits(scale)((400, 300)))
    x = np.random.default_rng(0).normal(size=(50, 400))
    np.testing.assert_allclose((x @ kernel).std(), 0.2 * scale, rtol=0.1)


def test_a_seeded_initializer_is_good_for_several_gates():
    initializer = keras.initializers.RandomNormal(seed=1)
    gates = [
        keras_comet.COMETGate(3, kernel_initializer=initializer)
        for _ in range(2)
    ]
    for gate in gates:
        gate.build((None, 4))
    np.testing.assert_array_equal(*[gate.split_kernel for gate in gates])
