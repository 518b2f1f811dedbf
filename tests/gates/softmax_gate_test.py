import numpy as np

import keras_comet
from tests.helpers import rows


def test_weights_are_the_softmax_of_the_logits():
    gate = keras_comet.SoftmaxGate(5)
    gate.build((None, 4))
    gate.kernel.assign(rows(4, 5, seed=1))
    gate.bias.assign(rows(5, seed=2))
    x = rows(6, 4)
    odds = np.exp(x.astype("float64") @ rows(4, 5, seed=1) + rows(5, seed=2))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gate(x), expected, atol=1e-6)
