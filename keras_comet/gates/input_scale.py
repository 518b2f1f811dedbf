"""The scale of the routing inputs, measured once."""

from typing import Any

import tensorflow as tf

from keras_comet._keras import aggregation
from keras_comet._keras import keras
from keras_comet.ops import static_cond

# Root mean squares of routing inputs at which the default kernels start
# splits undecided, with a gradient: from embeddings to batch-normalized.
_SMALLEST = 0.02
_LARGEST = 2.0


class InputScale(keras.layers.Layer):
    """Divides kernels by a scale, as if their inputs were divided by it.

    Default kernels count on inputs of about unit variance. The first training
    batch measures the scale that brings the root mean square of the inputs
    into the range from 0.02 to 2; it is 1 if they are there already.

    Attributes:
        scale: variable `()`, 0 until it is measured.

    Call arguments:
        kernel: float tensor or variable, whose product with the inputs is
            wanted at their usual scale.

    Output shape:
        That of the kernel. Dividing it costs less than dividing the inputs.
    """

    def build(self, input_shape: Any = None) -> None:
        self.scale = self.add_weight(
            name="scale",
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation=aggregation("mean"),
        )
        self.built = True

    def measure(self, inputs: tf.Tensor) -> None:
        """Measures the scale, unless that is done already.

        Args:
            inputs: float tensor of any shape. NaN and infinity are left out.
                If nothing other than zero is left, the next batch is measured.
        """
        scale = tf.convert_to_tensor(self.scale)
        self.scale.assign(
            static_cond(
                scale > 0.0,
                lambda: scale,
                lambda: _find_scale(inputs),
            )
        )

    def call(self, kernel: Any) -> tf.Tensor:
        kernel = tf.convert_to_tensor(kernel)
        scale = tf.convert_to_tensor(self.scale)
        if tf.get_static_value(scale) in (0.0, 1.0):
            return kernel
        return kernel / tf.cast(tf.where(scale > 0.0, scale, 1.0), kernel.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        return tuple(input_shape)


def _find_scale(inputs: tf.Tensor) -> tf.Tensor:
    """Returns what to divide by, or 0 if there is nothing to measure."""
    squares = tf.square(tf.cast(inputs, tf.float32))
    is_finite = tf.math.is_finite(squares)
    mean = tf.math.divide_no_nan(
        tf.reduce_sum(tf.where(is_finite, squares, 0.0)),
        tf.reduce_sum(tf.cast(is_finite, tf.float32)),
    )
    root = tf.sqrt(tf.stop_gradient(mean))
    return root / tf.clip_by_value(root, _SMALLEST, _LARGEST)
