import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows


def test_each_expert_is_a_perceptron_of_its_own():
    experts = keras_comet.StackedDenseExperts(
        3, [5, 2], activation=["tanh", None], bias_initializer="normal"
    )
    x = rows(4, 6)
    found = experts(tf.constant(x)).numpy()
    assert found.shape == (4, 3, 2)
    first, second = (np.asarray(each) for each in experts.kernels)
    first_bias, second_bias = (np.asarray(each) for each in experts.biases)
    for e in range(3):
        hidden = np.tanh(x @ first[e] + first_bias[e])
        np.testing.assert_allclose(
            found[:, e], hidden @ second[e] + second_bias[e], atol=1e-5
        )


def test_variables_are_one_stack_for_each_layer():
    experts = keras_comet.StackedDenseExperts(3, [5, 2])
    experts.build((None, 6))
    assert [tuple(each.shape) for each in experts.kernels] == [
        (3, 6, 5),
        (3, 5, 2),
    ]
    assert [tuple(each.shape) for each in experts.biases] == [(3, 5), (3, 2)]
    assert len(experts.trainable_weights) == 4


@pytest.mark.parametrize("seed", [None, 7])
def test_each_expert_starts_as_a_layer_of_its_own_would(seed):
    # Glorot's limit for one kernel is sqrt(6 / (200 + 100)).
    experts = keras_comet.StackedDenseExperts(
        3, 100, kernel_initializer=keras.initializers.GlorotUniform(seed=seed)
    )
    experts.build((None, 200))
    [kernel] = [np.asarray(each) for each in experts.kernels]
    limit = np.sqrt(6 / 300)
    for expert in range(3):
        assert 0.99 * limit < np.abs(kernel[expert]).max() <= limit
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1 * limit
    assert np.abs(kernel[1] - kernel[2]).max() > 0.1 * limit


def test_kernel_regularizer_adds_its_loss_once():
    experts = keras_comet.StackedDenseExperts(
        3, 2, kernel_regularizer=keras.regularizers.L2(0.5)
    )
    moe = keras_comet.MixtureOfExperts(experts, keras_comet.TopKGate(3))
    moe(tf.constant(rows(4, 6)))
    [kernel] = [np.asarray(each) for each in experts.kernels]
    [loss] = moe.losses
    np.testing.assert_allclose(loss, 0.5 * np.square(kernel).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_experts": 0}, "num_experts=0"),
        ({"units": 0}, "units=0"),
        ({"units": []}, r"units=\[\]"),
        ({"units": [3, 0]}, r"units=\[3, 0\]"),
        ({"activation": ["relu"]}, r"Received: 1 for units=\[3, 2\]"),
        ({"dropout": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_raise(kwargs, match):
    with pytest.raises(ValueError, match=match):
        keras_comet.StackedDenseExperts(
            **{"num_experts": 2, "units": [3, 2], **kwargs}
        )


def test_unknown_number_of_features_raises():
    with pytest.raises(ValueError, match=r"known.*\(None, None\)"):
        keras_comet.StackedDenseExperts(2, 3).build((None, None))
