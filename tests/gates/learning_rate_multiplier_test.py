import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows


def train(multiplier, optimizer, epochs=2, **compile_arguments):
    """Trains a gate alone, and returns its weights after the training."""
    keras.utils.set_random_seed(1)
    gate = keras_comet.TopKGate(
        4, k=2, learning_rate_multiplier=multiplier, seed=0
    )
    model = keras.Sequential([keras.Input((3,)), gate])
    model.compile(optimizer, "mse", **compile_arguments)
    target = np.eye(4, dtype="float32")[np.arange(32) % 4]
    model.fit(
        rows(32, 3),
        target,
        batch_size=8,
        epochs=epochs,
        verbose=0,
        shuffle=False,
    )
    return [tf.convert_to_tensor(w).numpy() for w in (gate.kernel, gate.bias)]


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_equals_an_optimizer_of_that_learning_rate(name):
    optimizer = getattr(keras.optimizers, name)
    slow = train(0.1, optimizer(0.05))
    expected = train(1.0, optimizer(0.005))
    for ours, theirs in zip(slow, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_assigned_weights_are_where_the_next_update_starts():
    gate = keras_comet.SoftmaxGate(3, learning_rate_multiplier=0.5)
    model = keras.Sequential([keras.Input((2,)), gate])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    features, target = rows(4, 2), np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    model.train_on_batch(features, target)
    gate.kernel.assign(np.full((2, 3), 0.25))
    gate.bias.assign([0.0, 0.0, 0.0])
    model.train_on_batch(features, target)
    # All logits of a row are equal, so that each expert has a third.
    upstream = 2.0 * (1.0 / 3.0 - target) / target.size
    gradient = (upstream - upstream.mean(axis=-1, keepdims=True)) / 3.0
    np.testing.assert_allclose(
        tf.convert_to_tensor(gate.kernel),
        0.25 - 0.5 * features.T @ gradient,
        atol=1e-6,
    )


@pytest.mark.parametrize("call", [{}, {"training": False}])
def test_holds_in_a_loop_that_does_not_say_it_trains(call):
    gate = keras_comet.COMETGate(3, rescale_inputs=False)
    model = keras.Sequential([keras.Input((2,)), gate])
    optimizer = keras.optimizers.SGD(1.0)
    features, target = rows(4, 2), np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    expected = [
        np.array(w) for w in map(tf.convert_to_tensor, gate.weights[:4])
    ]
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(features, **call) - target))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, model.trainable_variables, strict=True)
        )
        expected = [
            w - 0.1 * g.numpy()
            for w, g in zip(expected, gradients, strict=True)
        ]
    for ours, theirs in zip(model.trainable_variables, expected, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(ours), theirs, atol=1e-6
        )


def test_slows_the_noise_of_top_k_as_well():
    moved = []
    for multiplier in (1.0, 0.5):
        gate = keras_comet.TopKGate(
            3,
            k=2,
            noise=True,
            learning_rate_multiplier=multiplier,
            seed=0,
            kernel_initializer="ones",
        )
        model = keras.Sequential([keras.Input((2,)), gate])
        model.compile(keras.optimizers.SGD(1.0), "mse")
        model.train_on_batch(
            rows(4, 2), np.eye(3, dtype="float32")[[0, 1, 2, 0]]
        )
        # It starts from zeros.
        moved.append(tf.convert_to_tensor(gate.noise_kernel).numpy())
    assert np.abs(moved[0]).max() > 1e-3
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], atol=1e-6)


def test_multiplier_must_be_positive():
    with pytest.raises(ValueError, match="learning_rate_multiplier=0"):
        keras_comet.COMETGate(4, learning_rate_multiplier=0)
