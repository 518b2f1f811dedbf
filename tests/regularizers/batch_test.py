import numpy as np
import pytest
import tensorflow as tf

from keras_comet import regularizers
from tests.helpers import gradients

PENALTIES = {
    "entropy": (regularizers.entropy, (2, 4)),
    "load_balance": (regularizers.load_balance, (4,)),
    "unreachable_codes": (regularizers.unreachable_codes, (3,)),
    "z_loss": (regularizers.z_loss, (4,)),
}


def probabilities(batch, shape):
    values = np.random.default_rng(0).dirichlet(
        np.ones(shape[-1]), (batch, *shape[:-1])
    )
    return tf.constant(values, tf.float32)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_do_not_grow_with_the_batch(name):
    penalty, shape = PENALTIES[name]
    batch = probabilities(4, shape)
    many = tf.tile(batch, [50] + [1] * len(shape))
    np.testing.assert_allclose(penalty(many), penalty(batch), rtol=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_of_an_empty_batch_is_zero(name):
    # A replica may get no row of the last batch.
    penalty, shape = PENALTIES[name]
    empty = probabilities(0, shape)
    value, [gradient] = gradients(lambda: penalty(empty), [empty])
    assert float(value) == 0.0
    assert gradient.shape == empty.shape
