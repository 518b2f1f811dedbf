"""A gradient that is not finite ends a training before it does harm."""

import numpy as np
import pytest
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.faults import recommender


class BadGradient(keras.layers.Layer):
    """An expert whose gradient, of rows above a bound, is no number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(2)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs):
        @tf.custom_gradient
        def pass_on(values):
            # The third batch of four rows, normalized.
            bad = tf.reduce_max(inputs) > 1.0
            return tf.identity(values), lambda gradient: tf.where(
                bad, gradient * np.nan, gradient
            )

        return pass_on(self.dense(inputs))

    def compute_output_shape(self, input_shape):
        return self.dense.compute_output_shape(input_shape)


def trainable_weights(model):
    return [
        tf.convert_to_tensor(weight).numpy()
        for weight in model.trainable_weights
    ]


@pytest.mark.parametrize(
    ("loop", "in_a_graph"), [("fit", True), ("fit", False), ("Trainer", False)]
)
def test_weights_are_those_before_the_bad_step(loop, in_a_graph):
    models = [
        recommender.make_recommender(BadGradient, run_eagerly=not in_a_graph)
        for _ in range(2)
    ]
    for model in models:
        model.optimizer.build(model.trainable_variables)
    expected, model = models
    tf.config.run_functions_eagerly(not in_a_graph)
    expected.fit(recommender.batches().take(2), shuffle=False, verbose=0)
    before = recommender.read_weights(expected)
    fit = model.fit if loop == "fit" else keras_comet.Trainer(model).fit
    try:
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="No weight was changed"
        ):
            fit(recommender.batches(), verbose=0)
    finally:
        tf.config.run_functions_eagerly(False)
    after = recommender.read_weights(model)
    assert all(np.isfinite(each).all() for each in after)
    recommender.assert_same(before, after)


def test_infinite_gradients_under_a_loss_scale_skip_the_step():
    model = recommender.make_recommender(BadGradient)
    model.compile(
        keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
        run_eagerly=True,
    )
    *good, bad = recommender.batches()
    model.train_on_batch(*good[0])
    before = trainable_weights(model)
    model.train_on_batch(*bad)
    recommender.assert_same(before, trainable_weights(model))
