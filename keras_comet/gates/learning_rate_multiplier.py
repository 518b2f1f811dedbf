"""A learning rate of its own for a few variables, under any optimizer."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keras


class LearningRateMultiplier(keras.constraints.Constraint):
    """Takes a share of each update: `w + multiplier * (updated - w)`.

    Keras applies the constraint of a variable after every update, whichever
    optimizer made it. Where the update is proportional to the learning rate,
    as in SGD and Adam, that is a learning rate `multiplier` times as large.
    Scaling gradients would do nothing under Adam, which divides by their size.

    Args:
        multiplier: float above 0.
        before: variable of the same shape and value. Holds the value before
            the update: that after the last one, or what `remember` has
            written since.
    """

    def __init__(self, multiplier: float, before: Any) -> None:
        self.multiplier = multiplier
        self.before = before

    def remember(self, variable: Any) -> None:
        """Notes the value of the variable, which may have been assigned."""
        self.before.assign(tf.convert_to_tensor(variable))

    def __call__(self, w: Any) -> tf.Tensor:
        before = tf.convert_to_tensor(self.before)
        after = before + self.multiplier * (tf.convert_to_tensor(w) - before)
        # For loops that call the model without `training=True`.
        self.before.assign(after)
        return after
