"""The target of cardinality works in the package's own loop."""

import numpy as np
import tensorflow as tf

import keras_comet
from keras_comet._keras import keras


def test_cap_holds_for_every_row_from_the_epoch_named():
    gate = keras_comet.COMETGate(8, k=2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras_comet.MixtureOfExperts(
                keras_comet.StackedDenseExperts(8, [1]), gate, dispatch="dense"
            ),
        ]
    )
    model.compile("adam", loss="mse")
    x = np.random.default_rng(0).normal(size=(128, 6)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(16)
    cardinalities = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: cardinalities.append(
            np.count_nonzero(gate(x), axis=-1).max()
        )
    )
    target = keras_comet.CardinalityTarget(by_epoch=2)
    keras_comet.Trainer(model).fit(
        data, epochs=3, callbacks=[target, count], verbose=0
    )
    assert cardinalities[0] > 2
    assert max(cardinalities[1:]) <= 2
