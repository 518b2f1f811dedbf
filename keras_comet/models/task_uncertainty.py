"""A learned weight of a task's loss."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import keras


class TaskUncertainty(keras.layers.Layer):
    """Keeps the log-variance s of a task, and adds s to the loss.

    It is not meant to be called.

    Args:
        weight: float above 0. The task's own weight.

    Attributes:
        log_variance: variable `()`, 0 at first.
    """

    def __init__(self, weight: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def build(self, input_shape: Any = None) -> None:
        self.log_variance = self.add_weight(
            name="log_variance",
            shape=(),
            dtype="float32",
            initializer="zeros",
            # Its part of the loss that no label is needed for.
            regularizer=_Itself(),
        )
        self.built = True

    def loss_weight(self) -> "LossWeight":
        """Returns what the loss of the task is multiplied by."""
        return LossWeight(self)


class _Itself(keras.regularizers.Regularizer):
    """A penalty that is the variable."""

    def __call__(self, x: Any) -> tf.Tensor:
        return tf.convert_to_tensor(x)


class LossWeight:
    """`weight exp(-s)`, computed wherever it is made a tensor.

    Args:
        uncertainty: `TaskUncertainty`.
    """

    dtype = "float32"

    def __init__(self, uncertainty: TaskUncertainty) -> None:
        self._uncertainty = uncertainty

    def __tf_tensor__(
        self, dtype: tf.DType | None = None, name: str | None = None
    ) -> tf.Tensor:
        log_variance = tf.convert_to_tensor(self._uncertainty.log_variance)
        return self._uncertainty.weight * tf.exp(-log_variance, name=name)
