"""Experts without rows, of each kind that could mind."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows
from tests.layers.expert_kinds import CountingExpert


@pytest.mark.parametrize("compiled", [False, True])
def test_an_idle_expert_is_not_called(compiled):
    experts = [CountingExpert() for _ in range(3)]
    gate = keras_comet.HashGate(3, num_ids=3)
    gate.build((None,))
    gate.assignment.assign([0, 1, 2])
    moe = keras_comet.MixtureOfExperts(experts, gate, dispatch="sparse")
    moe.build(((None, 2), (None,)))
    call = tf.function(moe) if compiled else moe
    x = tf.constant(rows(5, 2))
    found = call((x, tf.constant([2, 0, 2, 2, 0])))
    np.testing.assert_allclose(found, 2 * x, rtol=1e-6)
    assert [int(each.calls) for each in experts] == [1, 0, 1]
    assert [int(each.rows) for each in experts] == [2, 0, 3]


def test_idle_convolution_experts_train():
    # Pooling over an empty batch aborts the process in its gradient.
    experts = [
        keras.Sequential(
            [
                keras.layers.Conv2D(2, 3),
                keras.layers.MaxPool2D(),
                keras.layers.BatchNormalization(),
                keras.layers.Flatten(),
            ]
        )
        for _ in range(2)
    ]
    gate = keras_comet.HashGate(2, num_ids=2)
    moe = keras_comet.MixtureOfExperts(experts, gate, "sparse")
    images, ids = keras.Input((6, 6, 1)), keras.Input((), dtype="int32")
    outputs = keras.layers.Dense(1)(moe((images, ids)))
    model = keras.Model([images, ids], outputs)
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    gate.assignment.assign([0, 1])
    x = rows(4, 6, 6, 1)
    for index, expert in enumerate(experts):
        before = [each.get_weights() for each in experts]
        inputs = [x, np.full(4, index)]
        losses = model.fit(inputs, np.ones((4, 1)), epochs=2, verbose=0)
        assert np.isfinite(losses.history["loss"]).all()
        assert all(np.isfinite(each).all() for each in model.get_weights())
        # Scales, shifts and moving statistics among them.
        for each, old in zip(experts, before, strict=True):
            moved = [
                not np.array_equal(a, b)
                for a, b in zip(each.get_weights(), old, strict=True)
            ]
            assert all(moved) == (each is expert)
