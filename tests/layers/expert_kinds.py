"""Experts of every kind, and gates, to combine in tests of mixtures."""

import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras
from tests.helpers import rows

# Few, as a graph grows with them, and no power of two.
NUM_EXPERTS = 3


def dense():
    return [keras.layers.Dense(3, "tanh") for _ in range(NUM_EXPERTS)]


def convolution_and_pooling():
    return [
        keras.Sequential(
            [
                keras.layers.Conv2D(2, 3, activation="relu"),
                keras.layers.MaxPool2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        for _ in range(NUM_EXPERTS)
    ]


def batch_normalization():
    """With moving statistics and scales that are not those at the start."""
    experts = []
    for seed in range(NUM_EXPERTS):
        expert = keras.Sequential(
            [keras.layers.Dense(3), keras.layers.BatchNormalization()]
        )
        expert.build((None, 6))
        for index, weight in enumerate(expert.layers[1].weights):
            weight.assign(np.abs(rows(3, seed=4 * seed + index)) + 0.5)
        experts.append(expert)
    return experts


def functional():
    def make():
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(4, "relu")(inputs)
        both = keras.layers.Concatenate()([inputs, hidden])
        return keras.Model(inputs, keras.layers.Dense(3)(both))

    return [make() for _ in range(NUM_EXPERTS)]


def sequential():
    return [
        keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])
        for _ in range(NUM_EXPERTS)
    ]


def stacked():
    return keras_comet.StackedDenseExperts(NUM_EXPERTS, [4, 3], "tanh")


EXPERTS = {
    "dense": dense,
    "convolution and pooling": convolution_and_pooling,
    "batch normalization": batch_normalization,
    "functional": functional,
    "sequential": sequential,
    "stacked": stacked,
}

GATES = {
    # Widths at which some rows have one expert and others several.
    "comet": lambda: keras_comet.COMETGate(
        NUM_EXPERTS, gamma=0.3, kernel_initializer="glorot_uniform"
    ),
    "dselect_k": lambda: keras_comet.DSelectKGate(
        NUM_EXPERTS, gamma=0.3, kernel_initializer="glorot_uniform"
    ),
    "top_k": lambda: keras_comet.TopKGate(NUM_EXPERTS),
    "hash": lambda: keras_comet.HashGate(NUM_EXPERTS),
    "softmax": lambda: keras_comet.SoftmaxGate(NUM_EXPERTS),
}


def features_for(kind, batch=13):
    images = kind == "convolution and pooling"
    return tf.constant(rows(batch, *((5, 5, 1) if images else (6,))))


def routing_inputs_for(gate, batch=13):
    # Ids 0 and 1 leave an expert idle.
    if gate == "hash":
        return tf.constant(np.arange(batch) % 2)
    return tf.constant(rows(batch, 4, seed=1))


def mixtures(kind, gate):
    """The same experts and gate under each dispatch."""
    experts, gate = EXPERTS[kind](), GATES[gate]()
    return {
        dispatch: keras_comet.MixtureOfExperts(experts, gate, dispatch)
        for dispatch in ("dense", "sparse", "auto")
    }


class CountingExpert(keras.layers.Layer):
    """Doubles its input, and counts its calls and the rows it sees."""

    def build(self, input_shape):
        self.calls, self.rows = (
            self.add_weight(
                name=name,
                shape=(),
                dtype="int32",
                initializer="zeros",
                trainable=False,
            )
            for name in ("calls", "rows")
        )
        self.built = True

    def call(self, features):
        self.calls.assign_add(1)
        self.rows.assign_add(tf.shape(features)[0])
        return 2.0 * features

    def compute_output_shape(self, input_shape):
        return input_shape
