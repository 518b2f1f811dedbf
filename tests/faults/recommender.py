"""A small recommender to do harm to."""

import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras

X = {"age": np.linspace(20.0, 60.0, 12).astype("float32")}
Y = {"click": (X["age"] > 40.0).astype("float32")}


def make_recommender(make_expert=None, **compile_arguments):
    """The same each time, built."""
    keras.utils.set_random_seed(3)
    model = keras_comet.MultiGateRecommender(
        features={"age": keras_comet.NumericFeature(40.0, 100.0)},
        experts=[make_expert() for _ in range(3)]
        if make_expert
        else keras_comet.StackedDenseExperts(3, [4], "relu"),
        gates={"click": keras_comet.TopKGate(3)},
        tasks=[keras_comet.Task("click", "mse")],
        tower_units=[],
        dispatch="dense",
    )
    model.compile(keras.optimizers.Adam(0.01), **compile_arguments)
    return model


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)


def read_weights(model):
    """The weights, and the state of the optimizer."""
    return [
        tf.convert_to_tensor(each).numpy()
        for each in [*model.weights, *model.optimizer.variables]
    ]


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
